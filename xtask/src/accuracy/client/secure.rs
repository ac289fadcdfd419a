//! Requests over TLS, on a connection of their own or on one that is kept.

use std::io::Write as _;

use anyhow::{Result, bail};
use wayspan_tests::tls;

use super::super::ledger::now_ns;
use super::super::plan::{How, Life};
use super::{Asked, Client};

impl Client<'_> {
    /// A request over TLS.
    pub(super) fn secure_request(&mut self, id: u64) -> Result<()> {
        let (running, host) = (self.running, self.asked.host);
        let workers = &self.stage.agent()?.workers;
        let before = workers.account();
        let mut client = match self.secure.take() {
            Some(client) => client,
            None => self.secure_connection(id)?,
        };
        let (first, second) = (format!("GET /r/{id} HTTP/1.1\r\n"), format!("host: {host}\r\n\r\n"));
        if running.index(How::ClientHead).is_some() {
            // Each in a record of its own.
            client.send(first)?;
            running.pause(How::ClientHead, id, now_ns());
            client.send(second)?;
        } else {
            client.send(first + &second)?;
        }
        let response = client.read_response()?;
        running.ledger.noise(id, workers.account().since(before).busy_ns());
        if response.status != 200 {
            bail!("status {}", response.status);
        }
        if running.row.shape.client_life == Life::Kept {
            self.secure = Some(client);
        }
        Ok(())
    }

    /// A new connection; the client pauses within its greeting where the row wants that.
    fn secure_connection(&self, id: u64) -> Result<tls::Client> {
        let (running, Asked { agent, host }) = (self.running, self.asked);
        let mut client = tls::Client::connect(*agent, host, &tls::settings(None, false)?)?;
        let hello = client.sealed(b"")?;
        let (first, rest) = hello.split_at(hello.len() / 2);
        client.stream().write_all(first)?;
        let paused = running.pause(How::ClientHello, id, now_ns());
        client.stream().write_all(rest)?;
        // What this end makes of the server's part takes its time too, disturbed or not.
        client.stream().peek(&mut [0])?;
        let answered_ns = now_ns();
        client.shake()?;
        if let Some((injection, _)) = paused {
            running.ledger.unsure(id, injection, 0, now_ns().saturating_sub(answered_ns));
        }
        Ok(client)
    }
}
