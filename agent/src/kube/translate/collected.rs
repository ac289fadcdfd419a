//! What translation has written of one object, or of those that are read together. Parts go by keys until it is known whose names
//! are: see [`super::allocation`].

use std::collections::{BTreeMap, BTreeSet};

use super::crd::Chains;
use crate::config::model::{self, EntryPoint, Middleware, Router, Service, TlsOptions};
use crate::kube::objects::Key;
use crate::kube::parts::{Certificate, Object, Problem, Status};

/// The Secrets that objects want to show.
pub(super) type Asked = BTreeMap<Object, BTreeSet<Key>>;

/// By namespace, the key of the TLS options that its routes have where others have the default ones.
pub(super) type OwnDefaults = BTreeMap<Box<str>, String>;

/// By key: who comes twice is there once.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub entry_points: Vec<EntryPoint>,
    pub statuses: Vec<Status>,
    pub routers: BTreeMap<String, Router>,
    pub services: BTreeMap<String, Service>,
    pub middlewares: BTreeMap<String, Middleware>,
    /// All Middleware objects, also those that cannot be used.
    pub middleware_keys: BTreeMap<String, Object>,
    pub chains: Chains,
    pub certificates: BTreeMap<Key, Certificate>,
    /// Who wants which of them shown.
    pub asked: Asked,
    pub default_certificate: Option<model::Certificate>,
    pub tls_options: BTreeMap<String, TlsOptions>,
    /// All TLSOption objects, also those that cannot be used.
    pub option_keys: BTreeMap<String, ()>,
    pub default_options_lost: bool,
    /// Default options of one namespace's routes alone, by namespace.
    pub own_defaults: OwnDefaults,
    /// It is an Ingress whose routers stand for whatever no other takes: the first of these has them.
    pub is_default: bool,
    /// Listeners that a route is attached to, by their Gateway's place and theirs.
    pub attached: Vec<(usize, usize)>,
    /// Policies that it cannot follow, each with the Gateway that leads there.
    pub refused: BTreeSet<(Key, Key)>,
    pub problems: Vec<Problem>,
}
