//! CloudEvents as text messages: for every way out on a WebSocket that gives them.

use crate::cloudevents::{self, Extension};
use crate::publication::{Format, Slot};
use crate::websocket::frame::push_text;

/// CloudEvents.
pub static CLOUDEVENTS: Format = Format::new(Slot::CloudEvents, |placed, out| {
    push_text(out, |out| cloudevents::encode(placed, Extension::None, out));
});
/// CloudEvents with cursor.
pub static CLOUDEVENTS_WITH_CURSOR: Format = Format::new(Slot::CloudEventsCursor, |placed, out| {
    push_text(out, |out| cloudevents::encode(placed, Extension::Cursor, out));
});
