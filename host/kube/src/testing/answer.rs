//! One request, one answer: what the in-process client and the HTTP server share.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::objects::{Failure, Objects, Refusal, Seen};

pub(super) type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

/// What a path means.
struct Target {
    collection: String,
    name: Option<String>,
}

impl Objects {
    /// Answers as an API server does; an error is a connection that ends.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Result<Response<AnswerBody>, io::Error>
    where
        B: Body<Error: std::fmt::Display>,
    {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|e| io::Error::other(e.to_string()))?.to_bytes();
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let seen = Seen {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            user_agent: header("user-agent"),
            authorization: header("authorization"),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        self.note(seen.clone());
        match self.failure(&seen) {
            Some(Failure::Status { code, .. }) => {
                let message = "a failure that a test asked for".to_owned();
                return Ok(refusal(&Refusal { code, reason: "Injected", message }));
            }
            Some(Failure::Cut { .. }) => return Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut")),
            Some(failure @ Failure::Silence { .. }) => {
                let mut revisions = self.revisions();
                while self.failure(&seen) == Some(failure.clone()) {
                    // It ends when the objects do.
                    if revisions.changed().await.is_err() {
                        return Err(io::ErrorKind::ConnectionReset.into());
                    }
                }
            }
            None => {}
        }
        Ok(self.route(&seen).unwrap_or_else(|refused| refusal(&refused)))
    }

    fn route(&self, seen: &Seen) -> Result<Response<AnswerBody>, Refusal> {
        if seen.path == "/version" {
            let version = json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "buildDate": "",
                "gitTreeState": "", "goVersion": "", "compiler": "", "platform": ""});
            return Ok(json_answer(StatusCode::OK, &version));
        }
        let nothing = || Refusal { code: 404, reason: "NotFound", message: format!("no such path: {}", seen.path) };
        let target = target(&seen.path).ok_or_else(nothing)?;
        let parsed = || {
            serde_json::from_str::<Value>(&seen.body).map_err(|e| Refusal {
                code: 400,
                reason: "BadRequest",
                message: e.to_string(),
            })
        };
        let query = |name: &str| query(&seen.query, name);
        let object = match (seen.method.as_str(), &target.name) {
            ("GET", Some(name)) => self.read(&target.collection, name)?,
            ("GET", None) if query("watch").is_some_and(|w| w == "true" || w == "1") => {
                return self.watch(&target.collection, &seen.query);
            }
            ("GET", None) => {
                let (items, revision) = self.list(&target.collection, &query("fieldSelector").unwrap_or_default());
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": revision.to_string()},
                    "items": items})
            }
            ("POST", None) => {
                return Ok(json_answer(StatusCode::CREATED, &self.create(&target.collection, parsed()?)?));
            }
            ("PATCH", Some(name)) => self.merge(&target.collection, name, &parsed()?)?,
            ("PUT", Some(name)) => {
                let mut object = parsed()?;
                object["metadata"]["name"] = name.as_str().into();
                self.put(&target.collection, object);
                self.read(&target.collection, name)?
            }
            ("DELETE", Some(name)) => self.delete(&target.collection, name)?,
            (method, _) => {
                let message = format!("{method} is not done here");
                return Err(Refusal { code: 405, reason: "MethodNotAllowed", message });
            }
        };
        Ok(json_answer(StatusCode::OK, &object))
    }

    /// Changes as they come, until `timeoutSeconds`, or until older ones are forgotten.
    fn watch(&self, collection: &str, text: &str) -> Result<Response<AnswerBody>, Refusal> {
        let fields = query(text, "fieldSelector").unwrap_or_default();
        let mut revision: u64 =
            query(text, "resourceVersion").and_then(|v| v.parse().ok()).unwrap_or_else(|| self.revision());
        // Too old at once is an answer, later it is an event.
        self.since(collection, &fields, revision)?;
        let seconds = query(text, "timeoutSeconds").and_then(|v| v.parse().ok()).unwrap_or(290);
        let (sender, mut receiver) = mpsc::channel::<Bytes>(16);
        let (objects, collection) = (self.clone(), collection.to_owned());
        let watching = async move {
            let mut revisions = objects.revisions();
            loop {
                revisions.mark_unchanged();
                let lines = match objects.since(&collection, &fields, revision) {
                    Ok(changes) => {
                        revision = changes.last().map_or(revision, |c| c.revision);
                        changes.iter().map(|c| json!({"type": c.kind, "object": c.object})).collect()
                    }
                    Err(refused) => {
                        // As the server does: told in the stream, which then ends.
                        let line = json!({"type": "ERROR", "object": status(&refused)});
                        let _ = sender.send(format!("{line}\n").into()).await;
                        return;
                    }
                };
                let lines: Vec<Value> = lines;
                for line in lines {
                    if sender.send(format!("{line}\n").into()).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = revisions.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        };
        tokio::spawn(tokio::time::timeout(Duration::from_secs(seconds), watching));
        let stream = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
        let body = StreamBody::new(stream.map(|bytes| Ok(Frame::data(bytes))));
        let response = Response::builder().header("content-type", "application/json").body(UnsyncBoxBody::new(body));
        response.map_err(|e| Refusal { code: 500, reason: "InternalError", message: e.to_string() })
    }
}

/// `/api/v1/…` or `/apis/<group>/<version>/…`, then the collection, perhaps in a namespace, and perhaps a name.
fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let kind = match *parts.first()? {
        "api" => 2,
        "apis" => 3,
        _ => return None,
    };
    let kind = if parts.get(kind) == Some(&"namespaces") && parts.len() > kind + 2 { kind + 2 } else { kind };
    let collection = format!("/{}", parts.get(..=kind)?.join("/"));
    Some(Target { collection, name: parts.get(kind + 1).filter(|n| !n.is_empty()).map(|n| (*n).to_owned()) })
}

/// One value of a query; the encodings that clients use for field selectors are undone.
fn query(text: &str, name: &str) -> Option<String> {
    let value = text.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/"))
}

fn status(refused: &Refusal) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": refused.message,
        "reason": refused.reason, "code": refused.code})
}

fn refusal(refused: &Refusal) -> Response<AnswerBody> {
    let code = StatusCode::from_u16(refused.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(code, &status(refused))
}

fn json_answer(code: StatusCode, value: &Value) -> Response<AnswerBody> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {});
    let mut response = Response::new(UnsyncBoxBody::new(body));
    *response.status_mut() = code;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
