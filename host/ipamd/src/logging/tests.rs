use std::sync::mpsc;

use tracing::{debug, error, info, info_span, warn};

use super::*;

/// Hands every write on.
struct Lines(mpsc::Sender<String>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(String::from_utf8_lossy(bytes).into_owned()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that `f` logs at `level`.
fn logged(level: LogLevel, f: impl FnOnce()) -> Vec<String> {
    let (sender, receiver) = mpsc::channel();
    let subscriber =
        tracing_subscriber::registry().with(filter(level)).with(json::Layer::new(Sink::new(Lines(sender))));
    tracing::subscriber::with_default(subscriber, f);
    receiver.try_iter().collect()
}

#[test]
fn a_line_is_an_object_with_its_keys_in_order() {
    let lines = logged(LogLevel::Debug, || {
        let span = info_span!("add", pod = "default/x");
        let _in = span.enter();
        info!(target: "reservoir_ipamd", n = 3, ok = true, ratio = 0.5, name = %"q\"\n", "took \"{}\"", "10.0.0.1");
    });
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line}");
    let prefix = r#"{"level":"info","ts":""#;
    assert!(line.starts_with(prefix), "{line}");
    let (ts, rest) = line[prefix.len()..].split_once(r#"","caller":"logging/tests.rs:"#).unwrap();
    assert_eq!((ts.len(), &ts[10..11], &ts[23..]), (24, "T", "Z"));
    let (number, rest) = rest.split_once('"').unwrap();
    assert!(number.parse::<u32>().unwrap() > 0);
    assert_eq!(
        rest,
        ",\"msg\":\"took \\\"10.0.0.1\\\"\",\"n\":3,\"ok\":true,\"ratio\":0.5,\"name\":\"q\\\"\\n\",\"pod\":\"default/x\"}\n"
    );
    serde_json::from_str::<serde_json::Value>(line).unwrap();
}

#[test]
fn a_field_recorded_later_is_told() {
    let lines = logged(LogLevel::Debug, || {
        let span = info_span!(target: "reservoir_ipamd", "add", address = tracing::field::Empty);
        span.record("address", "10.0.0.7");
        span.in_scope(|| warn!(target: "reservoir_ipamd", "x"));
    });
    assert!(lines[0].ends_with(",\"msg\":\"x\",\"address\":\"10.0.0.7\"}\n"), "{lines:?}");
}

#[test]
fn the_level_holds_for_us_and_libraries_are_heard_from_warn_on() {
    let all = || {
        debug!(target: "reservoir_core::manager", "1");
        info!(target: "reservoir_ipamd", "2");
        warn!(target: "reservoir_ipamd", "3");
        error!(target: "reservoir_ipamd", "4");
        info!(target: "h2::codec", "5");
        warn!(target: "h2::codec", "6");
        error!(target: "h2::codec", "7");
        fatal(&"8");
    };
    let heard = |level| {
        let lines = logged(level, all);
        lines.iter().map(|l| l.split_once("\"msg\":\"").unwrap().1[..1].to_owned()).collect::<String>()
    };
    assert_eq!(heard(LogLevel::Debug), "1234678");
    assert_eq!(heard(LogLevel::Info), "234678");
    assert_eq!(heard(LogLevel::Warn), "34678");
    assert_eq!(heard(LogLevel::Error), "478");
    assert_eq!(heard(LogLevel::Fatal), "8");
    assert!(logged(LogLevel::Fatal, all)[0].starts_with(r#"{"level":"fatal","#));
}

#[test]
fn a_failing_destination_stops_nobody() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("disk full"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::new(Broken);
    sink.line(b"1\n");
    sink.line(b"2\n");
    assert!(sink.0.lock().unwrap().failing);
}
