//! The threads that run the actors: one for the registry, the others for endpoints. Each endpoint thread has an HTTP
//! client of its own, so that a connection and the endpoint that uses it share a thread. The engine starts and stops
//! them.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use actix::{Arbiter, ArbiterHandle, System};
use parking_lot::Mutex;

use crate::delivery::client::{ClientError, Clients, Making};
use crate::delivery::guard::Guard;
use crate::delivery::hops::EngineName;
use crate::delivery::resolver::dns::Dns;
use crate::delivery::sender::Sender;
use crate::delivery::token::Tokens;

use super::StartError;
use super::endpoint::Transport;
use super::start_slots::StartSlots;

/// One endpoint thread.
#[derive(Clone)]
pub(super) struct EndpointThread {
    pub(super) arbiter: ArbiterHandle,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) start_slots: StartSlots,
}

pub(super) struct Arbiters {
    pub(super) registry: ArbiterHandle,
    pub(super) threads: Vec<EndpointThread>,
    stop: Mutex<Option<(System, JoinHandle<()>)>>,
}

impl Arbiters {
    pub(super) fn start(
        endpoints: usize,
        guard: &Arc<Guard>,
        dns: &Arc<Dns>,
        keeps_connections: bool,
        name: &EngineName,
    ) -> Result<Self, StartError> {
        let (tokens, making) = (Tokens::default(), Making::default());
        let clients = || Clients::new(guard.clone(), dns.clone(), making.clone(), keeps_connections);
        let sender = |_| Ok(Sender::new(clients()?, tokens.clone(), guard.clone(), name.clone()));
        let senders: Result<Vec<Sender>, ClientError> = (0..endpoints.max(1)).map(sender).collect();
        let senders = senders?;
        let wanted = senders.len() + 1;
        let (started, handles) = mpsc::channel();
        let thread = std::thread::Builder::new().name("actors".to_owned()).spawn(move || {
            let system = System::new();
            let arbiters: Vec<Arbiter> = (0..wanted).map(|_| Arbiter::new()).collect();
            let handles: Vec<ArbiterHandle> = arbiters.iter().map(Arbiter::handle).collect();
            let told = started.send((System::current(), handles));
            if told.is_ok()
                && let Err(error) = system.run()
            {
                tracing::error!(%error, "actor system failed; its actors have stopped");
            }
            for arbiter in arbiters {
                arbiter.stop();
                let _ = arbiter.join();
            }
        })?;
        let (system, mut handles) = handles.recv().map_err(|_| io::Error::other("the actor system did not start"))?;
        let registry = handles.pop().ok_or_else(|| io::Error::other("no thread for the registry"))?;
        let endpoint_thread = |(arbiter, sender): (_, Sender)| EndpointThread {
            arbiter,
            transport: Arc::new(sender),
            start_slots: StartSlots::new(),
        };
        let threads = handles.into_iter().zip(senders).map(endpoint_thread).collect();
        Ok(Self { registry, threads, stop: Mutex::new(Some((system, thread))) })
    }

    /// Drops every actor with its requests in flight, and waits for the threads to end.
    pub(super) fn stop(&self) {
        if let Some((system, thread)) = self.stop.lock().take() {
            system.stop();
            let _ = thread.join();
        }
    }
}
