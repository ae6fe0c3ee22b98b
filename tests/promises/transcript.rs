//! What the pages of `docs/protocols` show: fenced blocks, and how their texts are compared with
//! what really comes.

use std::collections::BTreeMap;

/// Values of `$NAME`: known from the start, or learned from an answer.
pub type Names = BTreeMap<String, String>;

/// A fenced block of a page, with the comment before it that says what to do with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Fence {
    /// Such as `run`; empty where nothing is said.
    pub marker: String,
    pub language: String,
    pub text: String,
    /// Where it begins in its page.
    pub line: usize,
}

/// The fenced blocks of a page, in order.
pub fn fences(page: &str) -> Vec<Fence> {
    let mut found: Vec<Fence> = Vec::new();
    let (mut marker, mut is_inside) = (String::new(), false);
    for (line, text) in (1..).zip(page.lines()) {
        let opened = text.strip_prefix("```");
        match (opened, is_inside) {
            (Some(language), false) => {
                let (marker, language) = (std::mem::take(&mut marker), language.to_owned());
                found.push(Fence { marker, language, text: String::new(), line });
                is_inside = true;
            }
            (Some(_), true) => is_inside = false,
            (None, true) => {
                let fence = found.last_mut().unwrap();
                fence.text.push_str(text);
                fence.text.push('\n');
            }
            (None, false) => {
                let comment = text.strip_prefix("<!-- ").and_then(|it| it.strip_suffix(" -->"));
                // It is the line before the fence, or it is none.
                marker = comment.unwrap_or_default().to_owned();
            }
        }
    }
    assert!(!is_inside, "a fence is left open");
    found
}

/// The lines of a block; what is indented goes on with the line before it.
pub fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match lines.last_mut() {
            Some(last) if line.starts_with("  ") => last.push_str(line.trim()),
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

/// Puts the values of names in.
pub fn fill(text: &str, names: &Names) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        let (name, behind) = split_name(after);
        filled.push_str(before);
        match names.get(name) {
            Some(value) => filled.push_str(value),
            None => filled.extend(["$", name]),
        }
        rest = behind;
    }
    filled + rest
}

/// Whether a text is what a page shows: `…` stands for anything, and a `$NAME` that has no value
/// yet takes what stands in its place.
pub fn fits(shown: &str, text: &str, names: &mut Names) -> bool {
    let filled = fill(shown, names);
    let (mut shown, mut rest) = (filled.as_str(), text);
    loop {
        let Some(at) = shown.find(['…', '$']) else { return shown == rest };
        let Some(after) = rest.strip_prefix(&shown[..at]) else { return false };
        let name = match shown[at..].strip_prefix('$') {
            Some(named) => {
                let (name, behind) = split_name(named);
                shown = behind;
                Some(name)
            }
            None => {
                shown = &shown[at + '…'.len_utf8()..];
                None
            }
        };
        let literal = &shown[..shown.find(['…', '$']).unwrap_or(shown.len())];
        let end = if literal.is_empty() { Some(after.len()) } else { after.find(literal) };
        let Some(end) = end.filter(|end| *end > 0) else { return false };
        if let Some(name) = name {
            names.insert(name.to_owned(), after[..end].to_owned());
        }
        rest = &after[end..];
    }
}

fn split_name(text: &str) -> (&str, &str) {
    let is_name = |character: char| character.is_ascii_uppercase() || character == '_';
    text.split_at(text.find(|it| !is_name(it)).unwrap_or(text.len()))
}

#[test]
fn a_shown_text_fits_what_comes_and_learns_names() {
    let mut names = Names::new();
    assert!(fits(r#"{"a":"$A","b":"…"}"#, r#"{"a":"k-1","b":"x"}"#, &mut names));
    assert_eq!(names["A"], "k-1");
    assert_eq!(fill(r#"{"after":"$A"}$B"#, &names), r#"{"after":"k-1"}$B"#);
    for (shown, text) in [
        ("$A", "k-2"),
        (r#"{"b":"…"}"#, r#"{"b":""}"#),
        ("one …", "two 1"),
        ("same", "same and more"),
    ] {
        assert!(!fits(shown, text, &mut names), "{shown}");
    }
}

#[test]
fn a_fence_is_marked_by_the_line_before_it() {
    let page = "<!-- run -->\n```sh\na\n  b\n```\n<!-- run -->\n\n```text\nc\n```\n";
    let found = fences(page);
    assert_eq!((found[0].marker.as_str(), found[0].text.as_str()), ("run", "a\n  b\n"));
    assert_eq!((found[1].marker.as_str(), found[1].line), ("", 8));
    assert_eq!(lines(&found[0].text), ["ab"]);
}
