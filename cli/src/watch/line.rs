//! How `fanfare watch` writes one event.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

const BOLD: &str = "\u{1b}[1;36m";
const PLAIN: &str = "\u{1b}[0m";

/// For whom a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// For a program: the frame's own text.
    Json,
    /// For a person: type and data.
    Words {
        /// Whether the type stands out.
        is_coloured: bool,
    },
}

impl Style {
    /// The style for an output. <https://no-color.org> tells how to ask for no colours.
    pub(crate) fn of(is_terminal: bool) -> Self {
        let is_coloured = std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
        if is_terminal { Self::Words { is_coloured } } else { Self::Json }
    }

    /// The line for a frame, with its end.
    pub(crate) fn line(self, frame: &str) -> String {
        let Self::Words { is_coloured } = self else { return on_one_line(frame) + "\n" };
        let Ok(event) = serde_json::from_str::<Event<'_>>(frame) else {
            return harmless(frame) + "\n";
        };
        let (bold, plain) = if is_coloured { (BOLD, PLAIN) } else { ("", "") };
        // Bytes that are no text are shown as they came: in base64.
        let data = event.data.or(event.data_base64).map_or("", RawValue::get);
        format!("{bold}{}{plain} {}\n", harmless(&event.event), harmless(data))
    }
}

/// A line break in JSON stands between its parts and never in a string: a blank does as well.
fn on_one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

/// An event must not speak to the terminal: some take C1 characters for commands.
fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' | '\t' => harmless.push(' '),
            _ if character.is_control() => {
                harmless += &format!("\\u{:04x}", u32::from(character));
            }
            _ => harmless.push(character),
        }
    }
    harmless
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &str = "{\"type\":\"event\",\"event\":\"a.b\",\"data\":{\"x\":\n 1.00}}";

    #[test]
    fn a_program_gets_the_frame_on_one_line() {
        let expected = "{\"type\":\"event\",\"event\":\"a.b\",\"data\":{\"x\":  1.00}}\n";
        assert_eq!(Style::Json.line(FRAME), expected);
    }

    #[test]
    fn a_person_gets_type_and_data() {
        let words = Style::Words { is_coloured: false };
        assert_eq!(words.line(FRAME), "a.b {\"x\":  1.00}\n");
        assert_eq!(words.line(r#"{"type":"event","event":"a"}"#), "a \n");
        let coloured = Style::Words { is_coloured: true };
        assert!(coloured.line(FRAME).starts_with("\u{1b}[1;36ma.b\u{1b}[0m "));
    }

    #[test]
    fn what_was_asked_for_beyond_the_data_is_for_programs() {
        let frame = r#"{"type":"event","event":"a","data":1,"cursor":"k-7","id":"i","time":"t"}"#;
        assert_eq!(Style::Json.line(frame), format!("{frame}\n"));
        assert_eq!(Style::Words { is_coloured: false }.line(frame), "a 1\n");
    }

    #[test]
    fn an_event_cannot_speak_to_the_terminal() {
        let words = Style::Words { is_coloured: false };
        let frame = "{\"event\":\"a\",\"data\":\"\u{9b}2J\u{7f}\"}";
        assert_eq!(words.line(frame), "a \"\\u009b2J\\u007f\"\n");
    }
}
