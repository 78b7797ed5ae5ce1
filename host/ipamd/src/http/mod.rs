//! The two HTTP servers: metrics (spec 02 §9.1) and introspection (spec 02 §8). Small, read-only, without effect on the
//! daemon: an address that cannot be bound is tried again for ever, a client that is slow or greedy is cut off.
//!
//! Each server is one future that never ends by itself; dropping it closes the listener and all connections.

use std::sync::Arc;

use crate::config::{Config, Listen, settings};
use crate::metrics::Metrics;

mod backoff;
mod introspect;
mod listener;
mod serve;

pub use introspect::Introspect;

use serve::{Limits, Reply};

/// Serves `GET /metrics`.
pub async fn serve_metrics(listen: Listen, metrics: Metrics) {
    let reply = move |path: &str| match path {
        "/metrics" => Reply::ok("text/plain; version=0.0.4; charset=utf-8; escaping=underscores", metrics.render()),
        _ => Reply::not_found("404 page not found\n"),
    };
    serve_for_ever("metrics", &listen, Arc::new(reply)).await;
}

/// Serves the introspection endpoints. The settings are those of `config`: the environment is read once, at start.
pub async fn serve_introspection(listen: Listen, config: &Config, state: Arc<dyn Introspect>) {
    let (networkutils, ipamd) = (settings::networkutils(config), settings::ipamd(config));
    let reply = move |path: &str| introspect::reply(path, &*state, &networkutils, &ipamd);
    serve_for_ever("introspection", &listen, Arc::new(reply)).await;
}

/// Listens; after a failure again, with back-off (spec 02 §15).
async fn serve_for_ever(what: &'static str, listen: &Listen, reply: Arc<serve::Handler>) {
    let mut backoff = backoff::Backoff::default();
    loop {
        let error = match listener::Listener::bind(listen).await {
            Ok(listener) => {
                tracing::info!("{what}: listening on {listen}");
                backoff = backoff::Backoff::default();
                serve::serve(what, listener, Limits::default(), Arc::clone(&reply)).await
            }
            Err(error) => error,
        };
        let pause = backoff.next();
        tracing::warn!("{what}: cannot serve on {listen}: {error}; next try in {:.1} s", pause.as_secs_f64());
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests;
