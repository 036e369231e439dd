//! Chooses the text format of a metrics page by the `Accept` header of its scraper. Pure.

use super::exposition::Format;

const OPENMETRICS: &str = "application/openmetrics-text";

/// OpenMetrics if the scraper names it and does not like classic text better; otherwise classic text, which all
/// scrapers read.
pub(super) fn format_for<'a>(accept: impl IntoIterator<Item = &'a str>) -> Format {
    let (mut openmetrics, mut classic) = (0.0_f32, 0.0_f32);
    for range in accept.into_iter().flat_map(|header| header.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut version) = (1.0_f32, None);
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        match media.as_str() {
            OPENMETRICS if version.is_none_or(|version| version == "1.0.0") => openmetrics = openmetrics.max(quality),
            "text/plain" if version.is_none_or(|version| version == "0.0.4") => classic = classic.max(quality),
            _ => {}
        }
    }
    if openmetrics > 0.0 && openmetrics >= classic { Format::OpenMetrics } else { Format::Classic }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_scraper_likes_best() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [prometheus, "Application/OpenMetrics-Text", "text/plain, application/openmetrics-text"] {
            assert_eq!(format_for([accept]), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/html",
            "text/plain;version=0.0.4, application/openmetrics-text;version=1.0.0;q=0.5",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=many",
        ] {
            assert_eq!(format_for([accept]), Format::Classic, "{accept}");
        }
        assert_eq!(format_for(["text/plain;q=0.1", "application/openmetrics-text;q=0.2"]), Format::OpenMetrics);
        assert_eq!(format_for([]), Format::Classic);
    }
}
