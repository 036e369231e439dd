//! Reads the list of hostile and harmless URLs (`data/urls.tsv`).

use std::net::IpAddr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Block,
    Allow,
    NoFollow,
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) verdict: Verdict,
    pub(crate) url: String,
    /// The DNS answer for the host name of the URL.
    pub(crate) dns: Option<(String, Vec<IpAddr>)>,
}

pub(crate) fn all() -> Vec<Case> {
    let list = include_str!("data/urls.tsv");
    list.lines().filter(|line| !line.starts_with('#')).map(read).collect()
}

pub(crate) fn with(verdict: Verdict) -> Vec<Case> {
    let cases: Vec<Case> = all().into_iter().filter(|case| case.verdict == verdict).collect();
    assert!(!cases.is_empty(), "no case of {verdict:?}");
    cases
}

impl Case {
    /// The same URL with port `port`; `None` if the URL names a port itself.
    pub(crate) fn at_port(&self, port: u16) -> Option<String> {
        let (scheme, rest) = self.url.split_once("://")?;
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let after_address = authority.rsplit(']').next().unwrap_or_default();
        let is_bare = !authority.is_empty() && !after_address.contains(':');
        is_bare.then(|| format!("{scheme}://{authority}:{port}{path}"))
    }
}

fn read(line: &str) -> Case {
    let [verdict, url, reason] = line.split('\t').collect::<Vec<_>>()[..] else {
        panic!("a line needs three columns: {line}")
    };
    let verdict = match verdict {
        "block" => Verdict::Block,
        "allow" => Verdict::Allow,
        "nofollow" => Verdict::NoFollow,
        other => panic!("no verdict: {other}"),
    };
    Case { verdict, url: unescaped(url), dns: dns_in(reason) }
}

fn unescaped(text: &str) -> String {
    let (mut written, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        written.push_str(before);
        let short = [("t", '\t'), ("n", '\n'), ("r", '\r'), ("0", '\0')];
        let short = short.into_iter().find_map(|(name, meant)| Some((meant, after.strip_prefix(name)?)));
        let (meant, after) = short.or_else(|| unicode(after)).unwrap_or(('\\', after));
        written.push(meant);
        rest = after;
    }
    written + rest
}

fn unicode(text: &str) -> Option<(char, &str)> {
    let (hex, after) = text.strip_prefix("u{")?.split_once('}')?;
    Some((char::from_u32(u32::from_str_radix(hex, 16).ok()?)?, after))
}

fn dns_in(reason: &str) -> Option<(String, Vec<IpAddr>)> {
    let (name, addresses) = reason.split_once("[dns ")?.1.split_once(']')?.0.split_once('=')?;
    let addresses = addresses.split(',').map(|ip| ip.parse().expect("an address"));
    Some((name.to_owned(), addresses.collect()))
}

#[test]
fn a_case_is_read_as_it_is_written() {
    let case = read("block\thttp://a\\t\\u{200b}b\\c/\twhy; [dns a.example=1.2.3.4,::1]");
    assert_eq!(case.url, "http://a\t\u{200b}b\\c/");
    assert_eq!(case.dns, Some(("a.example".to_owned(), vec!["1.2.3.4".parse().unwrap(), "::1".parse().unwrap()])));
    let at = |url: &str| Case { url: url.to_owned(), ..case.clone() }.at_port(9);
    assert_eq!(at("http://[::1]/x").as_deref(), Some("http://[::1]:9/x"));
    assert_eq!(at("http://127.1").as_deref(), Some("http://127.1:9"));
    assert_eq!((at("http://a:1/"), at("http://[::1]:1/"), at("//a/")), (None, None, None));
}
