//! ServersTransport objects: how servers are reached, in the words of the file and read by the file's reader.

use wayspan_proxy::snapshot::Timeouts;

use super::allocation;
use super::names::{self, CRD, normalized};
use super::specs::Specs;
use super::view::View;
use crate::config::fragment;
use crate::kube::objects::Key;

/// Timeouts, and idle connections.
pub(super) type Transport = (Timeouts, usize);

/// What was read of them.
#[derive(Debug, Default)]
pub(super) struct Transports {
    known: Specs<Transport>,
}

impl Transports {
    /// An object's.
    pub(super) fn of(&mut self, view: &View<'_>, key: &Key) -> Result<Transport, String> {
        let object = view.servers_transport(key);
        let object = object.ok_or_else(|| format!("there is no ServersTransport {key}"))?;
        let read = self.known.read(key, object, |spec| {
            let (transport, faults) = fragment::transport(&format!("ServersTransport {key}"), spec);
            match faults.first() {
                None => transport.ok_or_else(|| format!("ServersTransport {key} cannot be used")),
                Some(fault) => Err(fault.to_string()),
            }
        });
        (*read).clone()
    }

    /// By the name that other providers' objects call it by: `default-slow@kubernetescrd`.
    pub(super) fn named(&mut self, view: &View<'_>, name: &str) -> Result<Transport, String> {
        if !name.ends_with("@kubernetescrd") {
            return Err(format!("`{name}` is no name such as default-slow@kubernetescrd"));
        }
        let is_it = |key: &&Key| names::of(CRD, &normalized(&format!("{}-{}", key.namespace, key.name))) == name;
        let all: Vec<&Key> = view.all("ServersTransport").map(|(key, _)| key).filter(is_it).collect();
        match all.as_slice() {
            [] => Err(format!("there is no ServersTransport `{name}`")),
            [key] => self.of(view, key),
            [one, other, ..] => {
                Err(allocation::ambiguous(name, &[one, other].map(|key| format!("ServersTransport {key}"))))
            }
        }
    }

    /// Ends a translation.
    pub(super) fn forget_unused(&mut self) {
        self.known.forget_unused();
    }
}
