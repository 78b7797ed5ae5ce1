use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::listener::Listener;
use super::*;
use crate::config::Environment;

struct Node;

impl Introspect for Node {
    fn enis(&self) -> String {
        r#"{"0":{}}"#.into()
    }
    fn eni_config(&self) -> Option<String> {
        None
    }
    fn policy(&self) -> String {
        "{}".into()
    }
    fn decisions(&self) -> String {
        "{\"n\":1}\n{\"n\":2}\n".into()
    }
}

fn config() -> Config {
    Config::read(&Environment::from_iter([("ENABLE_IPv4", "true")])).0
}

fn local(port: u16) -> Listen {
    Listen::Tcp { host: "127.0.0.1".into(), port }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends one request and reads to the end: status line, headers, body.
async fn request(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> (String, String, String) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{all:?}"));
    let (status, headers) = head.split_once("\r\n").unwrap();
    (status.to_owned(), headers.to_ascii_lowercase(), body.to_owned())
}

/// Connects as soon as somebody listens.
async fn connect(port: u16) -> TcpStream {
    for _ in 0..200 {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody listens on {port}");
}

async fn get(port: u16, path: &str) -> (String, String, String) {
    request(connect(port).await, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

const COMMANDS: &str =
    r#"{"AvailableCommands":["/v1/enis","/v1/eni-configs","/v1/networkutils-env-settings","/v1/ipamd-env-settings"]}"#;

#[tokio::test]
async fn introspection_has_the_reference_s_bodies() {
    let port = free_port();
    let config = config();
    let server = tokio::spawn(async move { serve_introspection(local(port), &config, Arc::new(Node)).await });
    for (path, body) in [
        ("/", COMMANDS),
        ("/v1/pods", COMMANDS),
        ("/v1/enis", r#"{"0":{}}"#),
        ("/v1/enis?pretty", r#"{"0":{}}"#),
        ("/v1/policy", "{}"),
        ("/v1/decisions", "{\"n\":1}\n{\"n\":2}\n"),
    ] {
        let (status, _, got) = get(port, path).await;
        assert_eq!((status.as_str(), got.as_str()), ("HTTP/1.1 200 OK", body), "{path}");
    }
    let (_, headers, body) = get(port, "/v1/ipamd-env-settings").await;
    assert!(headers.contains("content-type: text/plain; charset=utf-8"), "{headers}");
    assert!(body.contains("\"WARM_ENI_TARGET\":1"), "{body}");
    let (status, _, body) = get(port, "/v1/eni-configs").await;
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 404 Not Found", "Not Found\n"));
    let (_, _, body) = request(connect(port).await, "DELETE /v1/enis HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(body, r#"{"0":{}}"#);
    server.abort();
}

#[tokio::test]
async fn metrics_are_served_in_the_text_format_and_nothing_else() {
    let port = free_port();
    let metrics = Metrics::new("x");
    metrics.add_request();
    let server = tokio::spawn(serve_metrics(local(port), metrics));
    let (status, headers, body) = get(port, "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(
        headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8; escaping=underscores"),
        "{headers}"
    );
    assert!(body.contains("\nawscni_add_ip_req_count 1\n"), "{body}");
    assert_eq!(get(port, "/").await.0, "HTTP/1.1 404 Not Found");
    server.abort();
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listen = Listen::Unix(path.clone());
    let listener = Listener::bind(&listen).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let error = Listener::bind(&listen).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);

    let handler: Arc<serve::Handler> = Arc::new(|path: &str| Reply::ok("text/plain", path.to_owned()));
    let server = tokio::spawn(serve::serve("test", listener, Limits::default(), handler));
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(request(stream, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await.2, "/a");
    server.abort();

    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(Listener::bind(&Listen::Unix(file.clone())).await.is_err());
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
}

#[tokio::test]
async fn an_address_in_use_is_tried_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let server = tokio::spawn(serve_metrics(local(port), Metrics::new("x")));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!server.is_finished());
    drop(taken);
    assert_eq!(get(port, "/metrics").await.0, "HTTP/1.1 200 OK");
    server.abort();
}

/// A server with short limits that answers with `size` bytes.
async fn short_tempered(size: usize) -> (u16, tokio::task::JoinHandle<std::io::Error>) {
    let listener = Listener::bind(&local(0)).await.unwrap();
    let port = listener.port();
    let limits = Limits { read: Duration::from_millis(150), write: Duration::from_millis(150), connections: 2 };
    let handler: Arc<serve::Handler> = Arc::new(move |_: &str| Reply::ok("text/plain", "x".repeat(size)));
    (port, tokio::spawn(serve::serve("test", listener, limits, handler)))
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_do_not_keep_others_out() {
    let (port, server) = short_tempered(3).await;
    // As many as there are places, silent or with half a request.
    let mut silent = connect(port).await;
    let mut half = connect(port).await;
    half.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    let start = Instant::now();
    assert_eq!(get(port, "/").await.2, "xxx");
    assert!(
        start.elapsed() >= Duration::from_millis(100),
        "there were more places than allowed: {:?}",
        start.elapsed()
    );
    for stream in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("not cut off");
    }
    server.abort();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    const SIZE: usize = 64 << 20;
    let (port, server) = short_tempered(SIZE).await;
    let mut lazy = connect(port).await;
    lazy.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut rest = Vec::new();
    let _ = lazy.read_to_end(&mut rest).await;
    assert!(rest.len() < SIZE, "{}", rest.len());
    server.abort();
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let (port, server) = short_tempered(3).await;
    let (status, ..) = request(connect(port).await, "\x16\x03\x01 garbage\r\n\r\n").await;
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
    assert_eq!(get(port, "/").await.2, "xxx");
    server.abort();
}
