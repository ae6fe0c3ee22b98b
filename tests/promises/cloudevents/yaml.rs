//! Reads the YAML of the conformance events, and no more YAML than they use: documents, nested maps,
//! plain and quoted words, literal blocks, comments.

use std::collections::BTreeMap;

/// One document: values by their path, its names joined by dots.
pub type Document = BTreeMap<String, String>;

/// Reads the documents of a file.
pub fn documents(text: &str) -> Vec<Document> {
    text.split("\n---\n").map(document).collect()
}

fn document(text: &str) -> Document {
    let mut document = Document::new();
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indent = indent_of(line);
        let (name, value) = content.split_once(':').unwrap_or_else(|| panic!("{line:?}"));
        path.retain(|(outer, _)| *outer < indent);
        path.push((indent, name.trim()));
        let value = match value.trim() {
            "" => continue,
            "|" => {
                let mut block = Vec::new();
                while let Some(line) = lines.next_if(|it| it.is_empty() || indent_of(it) > indent) {
                    block.push(line);
                }
                literal(&block)
            }
            word => word.trim_matches('"').to_owned(),
        };
        let names: Vec<&str> = path.iter().map(|(_, name)| *name).collect();
        document.insert(names.join("."), value);
    }
    document
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// YAML 1.2 §8.1: the lines without their indentation, and one line end behind the last.
fn literal(lines: &[&str]) -> String {
    let indent = lines.iter().filter(|it| !it.is_empty()).map(|it| indent_of(it)).min();
    let cut = |line: &&str| line.get(indent.unwrap_or(0)..).unwrap_or_default().to_owned();
    let text = lines.iter().map(cut).collect::<Vec<_>>().join("\n");
    format!("{}\n", text.trim_end_matches('\n'))
}

#[test]
fn documents_are_read_as_yaml_has_them() {
    let text = "# comment\nA: plain: word\nB:\n  c: \"quoted\"\n  D:\n    e : |\n      {\"x\": 5}\n\
                \x20      more\n  f: 1.0\nG: |\n    last\n---\nA: |\n  2\n";
    let read = documents(text);
    let expected = [
        ("A", "plain: word"),
        ("B.c", "quoted"),
        ("B.D.e", "{\"x\": 5}\n more\n"),
        ("B.f", "1.0"),
        ("G", "last\n"),
    ];
    let expected: Document = expected.map(|(path, it)| (path.to_owned(), it.to_owned())).into();
    assert_eq!(read[0], expected);
    assert_eq!(read[1], [("A".to_owned(), "2\n".to_owned())].into());
}
