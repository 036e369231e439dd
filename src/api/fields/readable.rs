//! Checks texts that people read: names and descriptions. Characters that are invisible, or reverse the text around
//! them, are refused: with them one name can pass for another. Pure.

use super::Fault;
use crate::engine::is_invisible;

/// Joiners keep the glyphs of scripts apart or together, and make one emoji of several.
const NON_JOINER: char = '\u{200c}';
const JOINER: char = '\u{200d}';

/// Selectors ask for an emoji or for a plain symbol (UTS #51, 1.4.3), and make a key of a digit.
const AS_TEXT: char = '\u{fe0e}';
const AS_EMOJI: char = '\u{fe0f}';
const KEYCAP: char = '\u{20e3}';

/// Unicode blocks with emoji, and single emoji outside of them.
const PICTURES: [std::ops::RangeInclusive<char>; 14] = [
    '\u{a9}'..='\u{a9}',
    '\u{ae}'..='\u{ae}',
    '\u{203c}'..='\u{203c}',
    '\u{2049}'..='\u{2049}',
    '\u{2122}'..='\u{2122}',
    '\u{2139}'..='\u{2139}',
    '\u{2190}'..='\u{21ff}',
    '\u{2300}'..='\u{23ff}',
    '\u{24c2}'..='\u{24c2}',
    '\u{25a0}'..='\u{27bf}',
    '\u{2900}'..='\u{2bff}',
    '\u{3030}'..='\u{303d}',
    '\u{3297}'..='\u{3299}',
    '\u{1f000}'..='\u{1faff}',
];

/// Scripts that are spelt with joiners (UAX #31, 2.3): from Arabic to Sinhala.
const JOINING: std::ops::RangeInclusive<char> = '\u{600}'..='\u{dff}';

/// Accepts one line.
pub(in crate::api) fn check_line(text: &str) -> Result<(), Fault> {
    check(text, &[], "one line of text is accepted")
}

/// Accepts several lines.
pub(in crate::api) fn check_prose(text: &str) -> Result<(), Fault> {
    check(text, &['\n', '\r', '\t'], "text with tabs and line breaks is accepted")
}

fn check(text: &str, layout: &[char], accepted: &str) -> Result<(), Fault> {
    let mut before = None;
    let mut rest = text.chars().peekable();
    while let Some(found) = rest.next() {
        let is_control = found.is_control() || matches!(found, '\u{2028}' | '\u{2029}');
        if is_control && !layout.contains(&found) {
            let message = format!("the control character {} was given, {accepted}", code_point(found));
            return Err(Fault::new("invalid", message));
        }
        if is_invisible(found) && !belongs(before, found, rest.peek().copied()) {
            let message = format!(
                "{} was given, which is not seen or turns the text around; visible characters are accepted",
                code_point(found)
            );
            return Err(Fault::new("invisible_character", message));
        }
        before = Some(found);
    }
    Ok(())
}

/// Whether an invisible character has its use between these two.
fn belongs(before: Option<char>, found: char, after: Option<char>) -> bool {
    let is_key = |c: char| c.is_ascii_digit() || matches!(c, '#' | '*');
    let joins = |c: Option<char>| c.is_some_and(|c| JOINING.contains(&c) && !is_invisible(c));
    match found {
        AS_TEXT | AS_EMOJI => before.is_some_and(is_picture) || before.is_some_and(is_key) && after == Some(KEYCAP),
        JOINER if after.is_some_and(is_picture) => before.is_some_and(|c| is_picture(c) || c == AS_EMOJI),
        JOINER | NON_JOINER => joins(before) && joins(after),
        _ => false,
    }
}

fn is_picture(c: char) -> bool {
    PICTURES.iter().any(|block| block.contains(&c))
}

fn code_point(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(text: &str) -> Option<String> {
        check_line(text).err().map(|fault| fault.message)
    }

    #[test]
    fn names_in_any_language_and_with_emoji_are_accepted() {
        for name in [
            "Billing sync",
            "Žluťoučký kůň",
            "支払い通知",
            "مدفوعات",
            "می\u{200c}خواهم",
            "क्\u{200d}ष",
            "שלום",
            "🚀 launch",
            "👩\u{200d}💻 dev",
            "👩🏽\u{200d}🚀",
            "🏳\u{fe0f}\u{200d}🌈",
            "❤\u{fe0f}",
            "1\u{fe0f}\u{20e3} first",
            "a\u{a0}b",
        ] {
            assert_eq!(refusal(name), None, "{name}");
        }
        assert!(check_prose("one\r\n\ttwo\n").is_ok());
    }

    #[test]
    fn what_is_not_seen_or_turns_the_text_around_is_named() {
        for (name, point) in [
            ("pay\u{202e}gnillib", "U+202E"),
            ("\u{2066}a\u{2069}", "U+2066"),
            ("\u{200f}a", "U+200F"),
            ("bil\u{200b}ling", "U+200B"),
            ("bil\u{200d}ling", "U+200D"),
            ("bil\u{200c}ling", "U+200C"),
            ("bil\u{ad}ling", "U+00AD"),
            ("a\u{feff}", "U+FEFF"),
            ("a\u{fe0f}", "U+FE0F"),
            ("1\u{fe0f}", "U+FE0F"),
            ("a\u{e0101}", "U+E0101"),
            ("\u{1f3f4}\u{e0067}", "U+E0067"),
            ("\u{3164}", "U+3164"),
            ("م\u{61c}م", "U+061C"),
            ("a\u{2060}b", "U+2060"),
            ("a\nb", "U+000A"),
            ("a\0", "U+0000"),
            ("a\u{85}", "U+0085"),
            ("a\u{2028}b", "U+2028"),
        ] {
            let message = refusal(name).unwrap_or_default();
            assert!(message.contains(point), "{point}: {message:?}");
        }
        assert!(check_prose("a\u{202e}").is_err() && check_prose("a\u{7}").is_err() && check_prose("\0").is_err());
    }

    proptest! {
        #[test]
        fn a_text_that_is_accepted_has_no_lonely_invisible_character(text in "[a-z \u{200b}-\u{200f}\u{202a}-\u{202e}\u{fe0f}]{0,12}") {
            let is_plain = text.chars().all(|c| c.is_ascii_lowercase() || c == ' ');
            prop_assert_eq!(check_line(&text).is_ok(), is_plain);
        }
    }
}
