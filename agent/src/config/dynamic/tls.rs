//! The section `tls`, and what entry points and routers say of it. A certificate that cannot be used is stood in for by its
//! last good version.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::{Part, Read, Source, local};
use crate::config::certificates;
use crate::config::cursor::Cursor;
use crate::config::disputes;
use crate::config::fault::{Fault, Item, Section};
use crate::config::model::{Certificate, ClientAuth, Dynamic, RouterTls, TlsOptions, TlsSettings};
use crate::config::yaml::{Node, Value};

/// Certificates of one configuration.
const CERTIFICATES_MAX: usize = 10_000;
/// What the default is called.
const DEFAULT: &str = "default";

impl<'s> Read<'_, 's> {
    /// All files' certificates. What is said twice counts once.
    pub(super) fn certificates(&mut self, sources: &'s [Source], dynamic: &mut Dynamic) {
        for source in sources {
            if self.faults.broken.has(&source.file, Section::Certificates) {
                let before = self.around.before.iter().flat_map(|before| &before.certificates);
                dynamic.certificates.extend(before.filter(|one| one.declared == source.file).cloned());
            }
            let Some(Value::List(entries)) = source.root.at("tls.certificates").map(|node| &node.value) else {
                continue;
            };
            for (index, entry) in entries.iter().enumerate().take(CERTIFICATES_MAX) {
                let place = Cursor::new(Some(entry), "tls.certificates[]");
                let path = format!("tls.certificates[{index}]");
                for (line, store) in place.lines("stores") {
                    if store != DEFAULT {
                        let message = format!("there is no store `{store}`; there is `{DEFAULT}`");
                        self.faults.push(Fault::at(&source.file, format!("{path}.stores"), line, message));
                    }
                }
                let before = self.around.before.map(|before| before.certificates.as_slice()).unwrap_or_default();
                let certificate = self.certificate(source, place, &path, before);
                dynamic.certificates.extend(certificate.filter(|one| !dynamic.certificates.contains(one)));
            }
        }
        for source in sources {
            let Some(node) = source.root.at("tls.stores.default.defaultCertificate") else { continue };
            let place = Cursor::new(Some(node), "tls.stores.default.defaultCertificate");
            let path = "tls.stores.default.defaultCertificate";
            if dynamic.default_certificate.is_some() {
                let message = "stands in another file already; keep one".to_owned();
                self.faults.push(Fault::at(&source.file, path, node.line, message));
                continue;
            }
            let before = self.around.before.and_then(|before| before.default_certificate.as_ref());
            dynamic.default_certificate =
                self.certificate(source, place, path, before.map_or(&[], std::slice::from_ref));
        }
    }

    fn certificate(
        &mut self,
        source: &Source,
        place: Cursor<'_>,
        path: &str,
        before: &[Certificate],
    ) -> Option<Certificate> {
        let base = source.file.parent().unwrap_or(Path::new(""));
        let (chain, key) = (place.text("certFile"), place.text("keyFile"));
        for text in chain.iter().chain(&key) {
            self.watched.extend(file_of(base, text));
        }
        let file = chain.as_deref().and_then(|text| file_of(base, text));
        let origin = file.map_or_else(|| path.to_owned(), |file| file.display().to_string());
        let mut faults = Vec::new();
        let mut fault = |word: &str, message: String| faults.push((word.to_owned(), message));
        let mut material = |word: &'static str, text: &Option<String>, what: &str| match text {
            Some(text) => Some(text.clone()),
            None => {
                fault(word, format!("is missing; name {what} in PEM"));
                None
            }
        };
        let chain = material("certFile", &chain, "a certificate");
        let key = material("keyFile", &key, "its private key");
        let about = |text: &str, message: String| match file_of(base, text) {
            Some(file) => format!("{}: {message}", file.display()),
            None => message,
        };
        let read_chain = chain.as_deref().and_then(|text| {
            let read = certificates::certificates(base, text);
            read.map_err(|message| fault("certFile", about(text, message))).ok()
        });
        let read_key = key.as_deref().and_then(|text| {
            let read = certificates::private_key(base, text);
            read.map_err(|message| fault("keyFile", about(text, message))).ok()
        });
        let made = read_chain.zip(read_key).and_then(|(certificates, private)| {
            let made = Certificate::new(origin.clone(), certificates, private.clone_key());
            made.map_err(|message| fault("certFile", about(chain.as_deref().unwrap_or_default(), message))).ok()
        });
        if let Some(made) = made {
            return Some(Certificate { declared: source.file.clone(), ..made });
        }
        let last_good = before.iter().find(|one| one.origin == origin && one.declared == source.file).cloned();
        if let (Some((_, message)), Some(_)) = (faults.last_mut(), &last_good) {
            message.push_str("; until it is mended, its last good version stays");
        }
        for (word, message) in faults {
            let line = place.line(&word);
            self.faults.push(Fault::at(&source.file, format!("{path}.{word}"), line, message));
        }
        last_good
    }

    pub(super) fn tls_options(&mut self, part: &Part<'_>) -> Option<TlsOptions> {
        let place = Cursor::new(Some(part.node), "tls.options.<name>");
        let version = |key| if place.text(key).is_some_and(|text| text.ends_with('3')) { 3 } else { 2 };
        let protocols = place.texts("alpnProtocols");
        if !protocols.is_empty() && protocols.iter().all(|protocol| protocol != "http/1.1") {
            let message = "not supported yet: HTTP/2; `http/1.1` must be among them".to_owned();
            self.fault(part, "alpnProtocols", place.line("alpnProtocols"), message);
        }
        let client_roots = self.client_roots(part, &place);
        let auth = place.text("clientAuth.clientAuthType").map(|text| text.to_ascii_lowercase());
        let client_auth = match auth.as_deref() {
            Some("requestclientcert") => ClientAuth::Request,
            Some("requireanyclientcert") => ClientAuth::RequireAny,
            Some("verifyclientcertifgiven") => ClientAuth::VerifyIfGiven,
            Some("requireandverifyclientcert") => ClientAuth::RequireAndVerify,
            // As in Traefik.
            None if place.node("clientAuth.caFiles").is_some() => ClientAuth::RequireAndVerify,
            _ => ClientAuth::None,
        };
        let settings = TlsSettings {
            oldest: version("minVersion"),
            newest: version("maxVersion"),
            cipher_suites: place.texts("cipherSuites"),
            curves: place.texts("curvePreferences"),
            client_auth,
            client_roots,
            sni_strict: place.boolean("sniStrict"),
            tickets: !place.boolean("disableSessionTickets"),
        };
        if self.faults.is_broken(&part.item) {
            return None;
        }
        let made = TlsOptions::new(part.item.name.clone(), settings);
        let options = made.map_err(|(key, message)| self.fault(part, key, place.line(key), message)).ok()?;
        self.sound(part, options)
    }

    fn client_roots(&mut self, part: &Part<'_>, place: &Cursor<'_>) -> Vec<CertificateDer<'static>> {
        let base = part.file.parent().unwrap_or(Path::new(""));
        let mut roots = Vec::new();
        for (line, text) in place.lines("clientAuth.caFiles") {
            let file = file_of(base, text);
            self.watched.extend(file.clone());
            match certificates::certificates(base, text) {
                Ok(all) => roots.extend(all),
                Err(message) => {
                    let name = file.map(|file| format!("{}: ", file.display())).unwrap_or_default();
                    self.fault(part, "clientAuth.caFiles", line, format!("{name}{message}"));
                }
            }
        }
        roots
    }

    /// Options that no connection can have when it gets to the router that names them.
    pub(super) fn contradictions(&mut self, order: &[Part<'_>], dynamic: &Dynamic) {
        let mut told = BTreeSet::new();
        let mut all = Vec::new();
        for entry_point in &dynamic.entry_points {
            let default = entry_point.tls.as_ref().and_then(|tls| tls.options.as_deref());
            for router in dynamic.routers.iter().filter(|router| entry_point.takes(router)) {
                let Some(Some(named)) = disputes::options(router, entry_point) else { continue };
                if Some(named) != default && wayspan_proxy::tls::hosts(&router.rule).is_empty() {
                    let message = format!(
                        "no server name chooses `{named}`, since the rule names no Host; give the entry point these options"
                    );
                    all.push((router.name.clone(), message));
                }
            }
        }
        all.extend(disputes::disputes(dynamic).into_iter().map(|one| (one.router.clone(), one.message())));
        for (router, message) in all {
            if told.insert(router.clone()) {
                let item = Item::new(Section::Router, &router);
                let part = order.iter().find(|part| part.item == item);
                let (file, line) = part.map_or((Path::new(""), 0), |part| (part.file, part.line));
                // It is not left out: its requests must not fall to others.
                self.faults.push(Fault::at(file, format!("{}.tls.options", item.path()), line, message));
            }
        }
    }

    /// `tls` of an entry point (`http.tls`) or router (`tls`).
    pub(super) fn router_tls(&mut self, part: &Part<'_>, place: &Cursor<'_>, key: &'static str) -> Option<RouterTls> {
        if !place.present(key) {
            return None;
        }
        let [options, domains] = ["options", "domains"].map(|word| format!("{key}.{word}"));
        let named = place.text(&options).map(|name| local(&name).to_owned()).filter(|name| name != DEFAULT);
        if let Some(name) = &named {
            self.refer(part, &options, place.line(&options), Section::TlsOptions, name);
            if self.faults.is_broken(&Item::new(Section::TlsOptions, name)) && part.item.section == Section::EntryPoint
            {
                // Its routers would lose what it asks of clients.
                self.faults.break_item(part.item.clone());
            }
        }
        let domains = match place.node(&domains).map(|node| &node.value) {
            Some(Value::List(nodes)) => nodes.iter().map(domain).collect(),
            _ => Vec::new(),
        };
        Some(RouterTls { options: named, domains })
    }
}

fn domain(node: &Node) -> (String, Vec<String>) {
    let main = node.at("main").and_then(Node::text).unwrap_or_default().to_owned();
    let others = node.at("sans").and_then(crate::config::value::texts).unwrap_or_default();
    (main, others.into_iter().map(|(_, text)| text.to_owned()).collect())
}

/// The file that a text names, unless it is the material itself, or a part of it that lost its first line.
fn file_of(base: &Path, text: &str) -> Option<PathBuf> {
    let is_path = !text.contains('\n') && text.len() < 4096 && !text.contains("-----");
    let file = base.join(text);
    // No key holds a dot.
    (is_path && (text.contains('.') || file.exists())).then_some(file)
}
