//! Lines that the reference's tools can read: `level`, `ts`, `caller`, `msg`, then fields, those of the event first,
//! then those of the spans around it, inner ones first.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::{FATAL, Sink, time};

pub(super) struct Layer {
    sink: Sink,
}

impl Layer {
    pub fn new(sink: Sink) -> Self {
        Self { sink }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Layer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = head(event.metadata(), &fields.message);
        line.push_str(&fields.text);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.push_str(&fields.text);
            }
        }
        line.push_str("}\n");
        self.sink.line(line.as_bytes());
    }
}

fn head(metadata: &Metadata<'_>, message: &str) -> String {
    let level = match *metadata.level() {
        _ if metadata.target() == FATAL => "fatal",
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    };
    let mut line = format!(r#"{{"level":"{level}","ts":"{}","caller":"#, time::iso8601(SystemTime::now()));
    let mut file = metadata.file().unwrap_or_else(|| metadata.target()).rsplit('/');
    let (name, dir) = (file.next().unwrap_or_default(), file.next());
    let place = dir.map_or_else(|| name.to_owned(), |dir| format!("{dir}/{name}"));
    push_string(&mut line, &format!("{place}:{}", metadata.line().unwrap_or_default()));
    line.push_str(r#","msg":"#);
    push_string(&mut line, message);
    line
}

/// The message, and the other fields as `,"name":value`.
#[derive(Default)]
struct Fields {
    message: String,
    text: String,
}

impl Fields {
    fn name(&mut self, field: &Field) {
        self.text.push(',');
        push_string(&mut self.text, field.name());
        self.text.push(':');
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field);
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{value}");
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.name(field);
            push_string(&mut self.text, &format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.name(field);
            push_string(&mut self.text, value);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, value);
        } else {
            self.record_debug(field, &value);
        }
    }
}

/// As a JSON string.
fn push_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}
