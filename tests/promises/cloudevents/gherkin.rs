//! Reads the Gherkin of the conformance features, and no more Gherkin than they use: scenario outlines
//! with one table of examples, steps, doc strings, tables.

/// One example of a scenario outline, with its values put in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    pub name: String,
    pub steps: Vec<Step>,
}

/// A step, and what hangs on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Without its keyword.
    pub text: String,
    pub doc_string: String,
    pub table: Vec<Vec<String>>,
}

/// Reads all examples of a feature, in their order.
pub fn examples(feature: &str) -> Vec<Example> {
    let outlines = feature.split("Scenario Outline:").skip(1);
    outlines.flat_map(|outline| expand(outline).into_iter()).collect()
}

fn expand(outline: &str) -> Vec<Example> {
    let (steps, table) = outline.split_once("Examples:").expect("an outline has examples");
    let mut rows = table.lines().filter_map(cells);
    let names = rows.next().expect("examples have names");
    let put_in = |values: Vec<String>| {
        let put = |text: String, (name, value): (&String, &String)| {
            text.replace(&format!("<{name}>"), value)
        };
        read(&names.iter().zip(&values).fold(steps.to_owned(), put))
    };
    rows.map(put_in).collect()
}

fn read(scenario: &str) -> Example {
    let mut lines = scenario.lines();
    let name = lines.next().unwrap_or_default().trim().to_owned();
    let mut steps: Vec<Step> = Vec::new();
    while let Some(line) = lines.next() {
        let content = line.trim();
        if content == "\"\"\"" {
            let indent = line.len() - line.trim_start().len();
            let inner = lines.by_ref().take_while(|it| it.trim() != "\"\"\"");
            let inner: Vec<&str> = inner.map(|it| it.get(indent..).unwrap_or_default()).collect();
            steps.last_mut().expect("a step").doc_string = inner.join("\n");
        } else if let Some(row) = cells(line) {
            steps.last_mut().expect("a step").table.push(row);
        } else if let Some((_, text)) = content.split_once(' ') {
            steps.push(Step { text: text.to_owned(), ..Step::default() });
        }
    }
    Example { name, steps }
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
}

#[test]
fn every_row_of_the_examples_is_an_example() {
    let feature = "@x\nFeature: F\n  Background:\n  Given it\n  Scenario Outline: S (<v>)\n  Given a\n    \
                   \"\"\"\n    <v>:\n      1\n    \"\"\"\n  Then b:\n    | k | <v> |\n  Examples:\n  \
                   | v |\n  | one |\n  | two |";
    let read = examples(feature);
    assert_eq!(read.len(), 2);
    assert_eq!(read[1].name, "S (two)");
    let expected = [
        Step { text: "a".into(), doc_string: "two:\n  1".into(), table: Vec::new() },
        Step {
            text: "b:".into(),
            doc_string: String::new(),
            table: vec![vec!["k".into(), "two".into()]],
        },
    ];
    assert_eq!(read[1].steps, expected);
}
