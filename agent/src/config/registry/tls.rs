//! What handshakes are made with: certificates by name, options ready for rustls, and the certificate of who has none.
//! Tickets last as long as the options that they were given under, so none opens a door that is closed by now.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use wayspan_proxy::tls::{Choice, Options};

use crate::config::model::{Certificate, Dynamic, Holder, HostOwners, TlsOptions, TlsSettings, owners_of};

/// What it is called.
pub(super) const DEFAULT: &str = "default";

/// The options of the last build, by name.
#[derive(Debug, Default)]
pub(super) struct Held {
    certificates: Vec<Certificate>,
    host_owners: HostOwners,
    default_certificate: Option<Certificate>,
    options: HashMap<String, Ready>,
}

#[derive(Debug)]
struct Ready {
    wanted: TlsOptions,
    tickets: Arc<dyn ProducesTickets>,
    built: Arc<Options>,
}

impl Held {
    /// Builds what changed. `is_used`: some entry point takes TLS.
    pub(super) fn build(&mut self, dynamic: &Dynamic, is_used: bool) {
        if !is_used {
            *self = Self::default();
            return;
        }
        let same = self.certificates == dynamic.certificates
            && self.host_owners == dynamic.host_owners
            && self.default_certificate == dynamic.default_certificate;
        if !same {
            self.certificates.clone_from(&dynamic.certificates);
            self.host_owners.clone_from(&dynamic.host_owners);
            self.default_certificate.clone_from(&dynamic.default_certificate);
        }
        let names = Arc::new(Names::of(&self.certificates, self.host_owners.clone()));
        let default = self.default_certificate.as_ref().map(|one| Arc::clone(&one.certified)).or_else(own_certificate);
        let mut before = std::mem::take(&mut self.options);
        let built_in = TlsOptions::new(DEFAULT.to_owned(), TlsSettings::default()).ok();
        let has_default = dynamic.tls_options.iter().any(|one| one.name == DEFAULT);
        for wanted in dynamic.tls_options.iter().chain(built_in.iter().filter(|_| !has_default)) {
            let (tickets, built) = match before.remove(&wanted.name) {
                Some(old) if old.wanted == *wanted => (old.tickets, same.then_some(old.built)),
                _ => (tickets(), None),
            };
            let built = built.unwrap_or_else(|| {
                let mut config = ServerConfig::clone(&wanted.template);
                let strict = wanted.settings.sni_strict;
                config.cert_resolver =
                    Arc::new(Resolver { names: Arc::clone(&names), default: default.clone(), strict });
                if wanted.settings.tickets {
                    config.ticketer = Arc::clone(&tickets);
                } else {
                    config.send_tls13_tickets = 0;
                }
                Arc::new(Options { name: wanted.name.as_str().into(), config: Arc::new(config) })
            });
            self.options.insert(wanted.name.clone(), Ready { wanted: wanted.clone(), tickets, built });
        }
    }

    /// Who gets which, of hosts with the names of options; `default` is for other names. `None` where nobody can be greeted.
    pub(super) fn choice(&self, default: Option<&str>, hosts: &[(String, Option<String>)]) -> Option<Choice> {
        let of = |name: &str| self.options.get(name).map(|ready| Arc::clone(&ready.built));
        let hosts = hosts.iter().filter_map(|(host, name)| {
            // One that is not there was reported; its routers are reached by nobody.
            Some((host.clone(), of(name.as_deref().unwrap_or(DEFAULT))?))
        });
        Some(Choice::new(of(default.unwrap_or(DEFAULT))?, hosts))
    }
}

/// Keys that turn every few hours, one set for all workers; nothing where the system has no randomness to make them.
fn tickets() -> Arc<dyn ProducesTickets> {
    rustls::crypto::ring::Ticketer::new().unwrap_or_else(|error| {
        tracing::warn!(%error, "TLS sessions are not resumed");
        Arc::new(NoTickets)
    })
}

#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// The certificate that we sign ourselves: one for the life of the process.
fn own_certificate() -> Option<Arc<CertifiedKey>> {
    static OWN: OnceLock<Option<Arc<CertifiedKey>>> = OnceLock::new();
    OWN.get_or_init(|| match make_certificate() {
        Ok(made) => Some(made),
        Err(error) => {
            tracing::error!(error, "no certificate of our own; name one in tls.stores.default.defaultCertificate");
            None
        }
    })
    .clone()
}

fn make_certificate() -> Result<Arc<CertifiedKey>, String> {
    let key = rcgen::KeyPair::generate().map_err(|error| error.to_string())?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "WAYSPAN DEFAULT CERT");
    let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    Certificate::new(String::new(), vec![certificate.der().clone()], key).map(|made| made.certified)
}

/// Certificates by the names that they are for; those that last longest first.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<String, Vec<Shown>>,
    /// By what follows the star, its dot included.
    wild: HashMap<String, Vec<Shown>>,
    owners: HostOwners,
}

/// One of a name's.
#[derive(Debug, Clone)]
struct Shown {
    origin: Arc<str>,
    holder: Option<Holder>,
    certified: Arc<CertifiedKey>,
}

impl Names {
    fn of(certificates: &[Certificate], owners: HostOwners) -> Self {
        let mut sorted: Vec<&Certificate> = certificates.iter().collect();
        sorted.sort_by_key(|one| std::cmp::Reverse(one.not_after));
        let mut names = Self { owners, ..Self::default() };
        for certificate in sorted {
            let Certificate { origin, holder, certified, .. } = certificate;
            let one =
                Shown { origin: origin.as_str().into(), holder: holder.clone(), certified: Arc::clone(certified) };
            for name in &certificate.names {
                let (map, key) = match name.strip_prefix('*') {
                    Some(suffix) => (&mut names.wild, suffix),
                    None => (&mut names.exact, name.as_str()),
                };
                map.entry(key.to_owned()).or_default().push(one.clone());
            }
        }
        names
    }

    /// Those of one holder, the best first: of the name's owner, else of the file, else of who owns a wildcard that covers the name,
    /// else of who asked first. Of an owner's those come first that its routes name. Of each, exact ones go before those whose
    /// star is the first label.
    fn find(&self, name: &str) -> Vec<&Arc<CertifiedKey>> {
        let exact = self.exact.get(name).map(Vec::as_slice).unwrap_or_default();
        let wild = name.find('.').filter(|dot| *dot > 0).and_then(|dot| self.wild.get(name.get(dot..)?));
        let wild = wild.map(Vec::as_slice).unwrap_or_default();
        let all = || exact.iter().chain(wild);
        let is_of_file = all().any(|one| one.holder.is_none());
        // Nobody's wildcard goes before what the file has for the name, unless he has the name, too.
        let owners = owners_of(&self.owners, name).take(if is_of_file { 1 } else { usize::MAX });
        for owner in owners {
            let is_named = |one: &Shown| owner.named.contains(&*one.origin);
            let is_own = |one: &Shown| one.holder.as_ref().map(|holder| &holder.name) == owner.name.as_ref();
            let named = all().filter(|one| is_named(one));
            let own = all().filter(|one| is_own(one) && !is_named(one));
            let owners: Vec<_> = named.chain(own).map(|one| &one.certified).collect();
            if !owners.is_empty() {
                return owners;
            }
        }
        let first = exact.iter().chain(wild).map(|one| one.holder.as_ref()).min().flatten();
        let is_first = |one: &&Shown| one.holder.as_ref().map(|one| &one.name) == first.map(|first| &first.name);
        let is_any_exact = exact.iter().any(|one| is_first(&one));
        let all = if is_any_exact { exact } else { wild };
        all.iter().filter(is_first).map(|one| &one.certified).collect()
    }
}

#[derive(Debug)]
struct Resolver {
    names: Arc<Names>,
    default: Option<Arc<CertifiedKey>>,
    strict: bool,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let found = name.as_deref().map(|name| self.names.find(name)).unwrap_or_default();
        // A site may have one of each kind of key; an old client may know one kind only.
        let fits = |one: &&Arc<CertifiedKey>| one.key.choose_scheme(hello.signature_schemes()).is_some();
        let chosen = found.iter().copied().find(fits).or_else(|| found.first().copied());
        chosen.or(self.default.as_ref().filter(|_| !self.strict)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::HostOwner;

    fn made(names: &[&str], year: i32) -> Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|one| (*one).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Certificate::new(String::new(), vec![certificate.der().clone()], key).unwrap()
    }

    #[test]
    fn exact_names_go_before_wildcards_and_the_certificate_that_lasts_longest_first() {
        let all = [
            made(&["*.a.test", "b.test"], 2030),
            made(&["x.a.test"], 2030),
            made(&["b.test"], 2040),
            made(&["*"], 2030),
        ];
        let names = Names::of(&all, HostOwners::new());
        for (name, wanted) in [
            ("x.a.test", vec![1]),
            ("y.a.test", vec![0]),
            ("z.y.a.test", vec![]),
            ("a.test", vec![]),
            (".a.test", vec![]),
            ("b.test", vec![2, 0]),
            ("", vec![]),
        ] {
            let found = names.find(name).into_iter();
            let at = |one: &Arc<CertifiedKey>| all.iter().position(|other| Arc::ptr_eq(&other.certified, one)).unwrap();
            assert_eq!(found.map(at).collect::<Vec<_>>(), wanted, "{name}");
        }
    }

    /// A certificate that somebody brought, since a year.
    fn held(names: &[&str], holder: &str, origin: &str, since: i64, until: i32) -> Certificate {
        let holder = Some(Holder { since, name: holder.into() });
        Certificate { holder, origin: origin.to_owned(), ..made(names, until) }
    }

    #[test]
    fn a_hosts_owner_chooses_its_certificate_and_nobody_replaces_it_by_one_that_lasts_longer_or_is_more_exact() {
        let all = [
            held(&["*.a.test", "b.test"], "shop", "Secret shop/wide", 2020, 2030),
            held(&["x.a.test", "b.test", "c.test"], "evil", "Secret evil/all", 2024, 2040),
            held(&["b.test"], "shop", "Secret shop/other", 2020, 2035),
            made(&["c.test", "*.d.test"], 2030),
            held(&["x.d.test", "e.e.test"], "evil", "Secret evil/more", 2024, 2040),
            held(&["*.e.test"], "infra", "Secret infra/e", 2022, 2030),
            held(&["*.f.test"], "shop", "Secret shop/f", 2022, 2030),
            held(&["x.f.test", "y.f.test", "z.f.test"], "evil", "Secret evil/f", 2020, 2040),
            made(&["y.f.test"], 2030),
        ];
        let owns = |host: &str, named: &[&str]| {
            let named = named.iter().map(ToString::to_string).collect();
            (host.to_owned(), HostOwner { name: Some("shop".into()), named })
        };
        let hosts = [
            owns("x.a.test", &["Secret shop/wide"]),
            owns("b.test", &["Secret shop/wide"]),
            owns("c.test", &["Secret shop/wide"]),
            owns("**.e.test", &["Secret infra/e"]),
            owns("*.f.test", &["Secret shop/f"]),
            ("x.f.test".to_owned(), HostOwner { name: Some("none".into()), ..HostOwner::default() }),
            ("y.f.test".to_owned(), HostOwner::default()),
        ];
        let names = Names::of(&all, hosts.into());
        for (name, wanted) in [
            ("x.a.test", vec![0]),
            // What the route names first, then what else is its namespace's.
            ("b.test", vec![0, 2]),
            // The owner has none: the file's, and without it whoever asked first.
            ("c.test", vec![3]),
            ("x.d.test", vec![3]),
            ("e.e.test", vec![5]),
            ("y.e.test", vec![5]),
            // Whoever covers it goes before whoever has no route for it, though he asked first.
            ("x.f.test", vec![6]),
            ("y.f.test", vec![8]),
            ("z.f.test", vec![6]),
            // Nobody's.
            ("y.a.test", vec![0]),
        ] {
            let found = names.find(name).into_iter();
            let at = |one: &Arc<CertifiedKey>| all.iter().position(|other| Arc::ptr_eq(&other.certified, one)).unwrap();
            assert_eq!(found.map(at).collect::<Vec<_>>(), wanted, "{name}");
        }
    }

    #[test]
    fn options_are_built_anew_only_where_they_or_certificates_changed_and_tickets_last_as_long_as_options() {
        let options = |strict| {
            let settings = TlsSettings { sni_strict: strict, ..TlsSettings::default() };
            TlsOptions::new("strict".to_owned(), settings).unwrap()
        };
        let mut held = Held::default();
        let mut dynamic = Dynamic { tls_options: vec![options(true)], ..Dynamic::default() };
        let mut build = |dynamic: &Dynamic| {
            held.build(dynamic, true);
            let hosts = [("a.test".to_owned(), Some("strict".to_owned()))];
            Arc::clone(held.choice(None, &hosts).unwrap().of(Some("a.test")))
        };
        let first = build(&dynamic);
        assert!(Arc::ptr_eq(&first, &build(&dynamic)));
        dynamic.default_certificate = Some(made(&["a.test"], 2030));
        let second = build(&dynamic);
        assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&first.config.ticketer, &second.config.ticketer));
        dynamic.tls_options = vec![options(false)];
        let third = build(&dynamic);
        assert!(!Arc::ptr_eq(&third.config.ticketer, &second.config.ticketer));
    }
}
