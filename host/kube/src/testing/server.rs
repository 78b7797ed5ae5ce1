//! The same over HTTP, on loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::Objects;

/// An API server on loopback. It ends, with its connections, when it is dropped; the objects stay.
#[derive(Debug)]
pub struct Server {
    objects: Objects,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// On a free port.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn start(objects: Objects) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), objects).await
    }

    /// On this address: where one was before, for a server that comes back.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn start_at(address: SocketAddr, objects: Objects) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let served = objects.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let objects = served.clone();
                let service = service_fn(move |request| {
                    let objects = objects.clone();
                    async move { objects.answer(request).await }
                });
                connections.spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client may go away at any moment.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { objects, address, task })
    }

    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes a file for KUBECONFIG that leads here.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_kubeconfig(&self, path: &Path) -> io::Result<()> {
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: testing\n  cluster:\n    server: {}\n\
             contexts:\n- name: testing\n  context:\n    cluster: testing\n    user: testing\n\
             current-context: testing\nusers:\n- name: testing\n  user:\n    token: testing\n",
            self.url()
        );
        std::fs::write(path, text)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
