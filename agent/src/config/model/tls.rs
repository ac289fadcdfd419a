//! TLS with clients: certificates, wherever they come from, and options. Checked here, so that what is built from them
//! cannot fail; who gets which is `registry`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ResolvesServerCertUsingSni, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme, SupportedCipherSuite};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Names of a certificate at most: more are not looked at.
const NAMES_MAX: usize = 1000;

/// A certificate with its key, and the names that it is for.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Where it comes from, for messages: a file, or an object of Kubernetes.
    pub origin: String,
    /// Lower-case DNS names, `*.example.com` among them, and addresses: its subject alternative names. Its common name where it
    /// has none.
    pub names: Vec<String>,
    /// Its subject's common name; empty where there is none.
    pub common_name: String,
    /// Who signed it, as text.
    pub issuer: String,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// From when it is good, Unix time.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
    /// The chain, ours first, with the key. Neither is shown by `Debug`.
    pub certified: Arc<CertifiedKey>,
    /// Who brought it; `None`: the configuration's own.
    pub holder: Option<Holder>,
    /// The configuration's file that names it; empty where none does.
    pub(in crate::config) declared: PathBuf,
}

/// One of several who bring certificates and routers without knowing of each other. The earlier one is the lesser.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Since when it is asked for, Unix time in seconds.
    pub since: i64,
    /// Whose it is.
    pub name: Arc<str>,
}

/// Whose a host is, and with it the choice of its certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostOwner {
    /// A [`Holder`]'s name; `None`: the configuration's own.
    pub name: Option<Arc<str>>,
    /// Origins of the certificates that its routes of this host name.
    pub named: BTreeSet<String>,
}

/// Owners by host, as [`wayspan_proxy::tls::hosts`] gives them: also `*.example.com` and `**.example.com`.
pub type HostOwners = BTreeMap<String, HostOwner>;

/// The owners of a lower-case name: its own, then those of wildcards that cover it, the longest first.
pub fn owners_of<'o>(owners: &'o HostOwners, name: &str) -> impl Iterator<Item = &'o HostOwner> {
    let suffixes = name.match_indices('.').filter_map(|(at, _)| name.get(at..).filter(|_| at > 0)).enumerate();
    let wild = suffixes.flat_map(|(labels, suffix)| {
        let next = (labels == 0).then(|| owners.get(&format!("*{suffix}"))).flatten();
        [next, owners.get(&format!("**{suffix}"))]
    });
    [owners.get(name)].into_iter().chain(wild).flatten()
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        // The key is the certificate's own, so it needs no look.
        (&self.origin, &self.holder) == (&other.origin, &other.holder) && self.certified.cert == other.certified.cert
    }
}

impl Certificate {
    /// Checks that the key is the certificate's, and reads whom it is for.
    ///
    /// # Errors
    /// What is wrong, in words that fit behind its place.
    pub fn new(
        origin: String,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, String> {
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            Error::InconsistentKeys(_) => "the key is not the certificate's".to_owned(),
            error => format!("cannot be used: {error}"),
        })?;
        let Some(first) = certified.cert.first() else { return Err("holds no certificate".to_owned()) };
        let (_, parsed) = X509Certificate::from_der(first).map_err(|error| format!("cannot be read: {error}"))?;
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let common_name = common_name.unwrap_or_default().to_owned();
        let alternatives = parsed.subject_alternative_name().ok().flatten();
        let names = alternatives.iter().flat_map(|all| &all.value.general_names).filter_map(name_of);
        let mut names: Vec<String> = names.take(NAMES_MAX).collect();
        if names.is_empty() && !common_name.is_empty() {
            names.push(common_name.to_ascii_lowercase());
        }
        let (not_before, not_after) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let serial = parsed.raw_serial_as_string().replace(':', "");
        let issuer = parsed.issuer().to_string();
        let (certified, holder, declared) = (Arc::new(certified), None, PathBuf::new());
        Ok(Self { origin, names, common_name, issuer, serial, not_before, not_after, certified, holder, declared })
    }

    /// Whether a client that asks for a lower-case name, or for all names of a wildcard, takes it.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        let host = if host.starts_with("**") { host.get(1..).unwrap_or_default() } else { host };
        let wild = host.find('.').filter(|dot| *dot > 0).and_then(|dot| host.get(dot..));
        self.names.iter().any(|name| name == host || (wild.is_some() && name.strip_prefix('*') == wild))
    }
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let sixteen = || <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            four.or_else(|_| sixteen()).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

/// `tls` of an entry point or router.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouterTls {
    /// `options`; `None`: `default`.
    pub options: Option<String>,
    /// `domains`: main name and others. They are shown; certificates are chosen by what they hold.
    pub domains: Vec<(String, Vec<String>)>,
}

/// `tls.options.<name>`.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The key.
    pub name: String,
    /// What it says.
    pub settings: TlsSettings,
    /// What rustls makes of it, without certificates and tickets.
    pub(in crate::config) template: Arc<ServerConfig>,
}

impl PartialEq for TlsOptions {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.settings) == (&other.name, &other.settings)
    }
}

/// The values of TLS options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// `minVersion`: 2 or 3.
    pub oldest: u8,
    /// `maxVersion`.
    pub newest: u8,
    /// `cipherSuites`; empty: all.
    pub cipher_suites: Vec<String>,
    /// `curvePreferences`; empty: all.
    pub curves: Vec<String>,
    /// `clientAuth.clientAuthType`.
    pub client_auth: ClientAuth,
    /// `clientAuth.caFiles`.
    pub client_roots: Vec<CertificateDer<'static>>,
    /// `sniStrict`.
    pub sni_strict: bool,
    /// Not `disableSessionTickets`.
    pub tickets: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            oldest: 2,
            newest: 3,
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            client_auth: ClientAuth::None,
            client_roots: Vec::new(),
            sni_strict: false,
            tickets: true,
        }
    }
}

/// `clientAuthType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients are not asked.
    None,
    /// They are asked; whatever they show will do.
    Request,
    /// They must show one, whoever made it.
    RequireAny,
    /// What they show must come from the roots.
    VerifyIfGiven,
    /// They must show one from the roots.
    RequireAndVerify,
}

impl TlsOptions {
    /// The options of a name, if rustls has all that they ask for.
    ///
    /// # Errors
    /// The key that is at fault, and what is wrong.
    pub fn new(name: String, settings: TlsSettings) -> Result<Self, (&'static str, String)> {
        let template = Arc::new(settings.template()?);
        Ok(Self { name, settings, template })
    }
}

impl TlsSettings {
    fn template(&self) -> Result<ServerConfig, (&'static str, String)> {
        let mut provider = ring::default_provider();
        if !self.cipher_suites.is_empty() {
            provider.cipher_suites = self.suites(&provider.cipher_suites)?;
        }
        if !self.curves.is_empty() {
            let known = provider.kx_groups.clone();
            let group = |text: &String| {
                let named = known.iter().find(|group| curve_name(group.name()).eq_ignore_ascii_case(text));
                named
                    .copied()
                    .ok_or_else(|| ("curvePreferences", lacks(text, known.iter().map(|g| curve_name(g.name())))))
            };
            provider.kx_groups = self.curves.iter().map(group).collect::<Result<_, _>>()?;
        }
        let versions: &[_] = match (self.oldest, self.newest) {
            (2, 2) => &[&rustls::version::TLS12],
            (3, 3) => &[&rustls::version::TLS13],
            (2, 3) => &[&rustls::version::TLS13, &rustls::version::TLS12],
            _ => return Err(("maxVersion", "is older than minVersion".to_owned())),
        };
        let provider = Arc::new(provider);
        let verifier = self.verifier(&provider)?;
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let builder = builder.map_err(|error| ("cipherSuites", error.to_string()))?;
        let resolver = Arc::new(ResolvesServerCertUsingSni::new());
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // By tickets alone: in a memory of its own TLS 1.2 would resume sessions where these are off.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    /// Those that are named, in their order; the ones of TLS 1.3 are not chosen, as in Go.
    fn suites(&self, known: &[SupportedCipherSuite]) -> Result<Vec<SupportedCipherSuite>, (&'static str, String)> {
        let newest = known.iter().filter(|suite| suite.tls13().is_some()).copied();
        let mut suites: Vec<_> = newest.collect();
        for text in &self.cipher_suites {
            let is_named = |suite: &&SupportedCipherSuite| {
                let name = suite_name(u16::from(suite.suite()));
                // Go knows those with ChaCha20 by a shorter name, too.
                name == *text || name.strip_suffix("_SHA256") == Some(text) && name.contains("CHACHA20")
            };
            let Some(suite) = known.iter().find(is_named) else {
                let names = known.iter().map(|suite| suite_name(u16::from(suite.suite())));
                return Err(("cipherSuites", lacks(text, names)));
            };
            if suite.tls13().is_none() {
                suites.push(*suite);
            }
        }
        Ok(suites)
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, (&'static str, String)> {
        let roots = || {
            let mut roots = RootCertStore::empty();
            for root in &self.client_roots {
                roots.add(root.clone()).map_err(|error| ("clientAuth.caFiles", format!("cannot be used: {error}")))?;
            }
            if roots.is_empty() {
                return Err(("clientAuth.caFiles", "is missing; name who certifies clients".to_owned()));
            }
            Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)))
        };
        let built = match self.client_auth {
            ClientAuth::None => return Ok(WebPkiClientVerifier::no_client_auth()),
            ClientAuth::Request => return Ok(Arc::new(AnyClient { required: false, provider: Arc::clone(provider) })),
            ClientAuth::RequireAny => {
                return Ok(Arc::new(AnyClient { required: true, provider: Arc::clone(provider) }));
            }
            ClientAuth::VerifyIfGiven => roots()?.allow_unauthenticated().build(),
            ClientAuth::RequireAndVerify => roots()?.build(),
        };
        built.map_err(|error| ("clientAuth.caFiles", format!("cannot be used: {error}")))
    }
}

fn lacks(text: &str, known: impl Iterator<Item = &'static str>) -> String {
    format!("`{text}` is not supported; there are {}", known.collect::<Vec<_>>().join(", "))
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

/// As Go and Traefik call curves.
fn curve_name(group: rustls::NamedGroup) -> &'static str {
    match group {
        rustls::NamedGroup::X25519 => "X25519",
        rustls::NamedGroup::secp256r1 => "CurveP256",
        rustls::NamedGroup::secp384r1 => "CurveP384",
        _ => "",
    }
}

/// IANA's name of a cipher suite that we speak; empty for others.
#[must_use]
pub fn suite_name(suite: u16) -> &'static str {
    match suite {
        0x1301 => "TLS_AES_128_GCM_SHA256",
        0x1302 => "TLS_AES_256_GCM_SHA384",
        0x1303 => "TLS_CHACHA20_POLY1305_SHA256",
        0xc02b => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        0xc02c => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        0xc02f => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        0xc030 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        0xcca8 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        0xcca9 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        _ => "",
    }
}

/// Takes any certificate, as long as its owner is the one who speaks.
#[derive(Debug)]
struct AnyClient {
    required: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_suites_and_curves_that_there_are_have_names() {
        let provider = provider();
        assert!(provider.cipher_suites.iter().all(|suite| !suite_name(u16::from(suite.suite())).is_empty()));
        assert!(provider.kx_groups.iter().all(|group| !curve_name(group.name()).is_empty()));
    }

    #[test]
    fn a_certificate_says_whom_it_is_for() {
        let names = ["A.test", "*.b.test", "127.0.0.1", "::1"];
        let made = rcgen::generate_simple_self_signed(names.map(str::to_owned)).unwrap();
        let key = || PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let certificate = Certificate::new("here".to_owned(), vec![made.cert.der().clone()], key()).unwrap();
        assert_eq!(certificate.names, ["a.test", "*.b.test", "127.0.0.1", "::1"]);
        assert!(certificate.not_before < certificate.not_after);
        let other = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let wrong = Certificate::new("here".to_owned(), vec![other.cert.der().clone()], key());
        assert_eq!(wrong.unwrap_err(), "the key is not the certificate's");
        assert!(Certificate::new("here".to_owned(), vec![b"nonsense".to_vec().into()], key()).is_err());
        assert!(Certificate::new("here".to_owned(), Vec::new(), key()).is_err());
    }
}
