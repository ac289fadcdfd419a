//! TLS to a receiver of spans: who must have certified it, and who we say we are. Opening connections is
//! `connection`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::config::model::{ClientTls, OtlpProtocol};

/// Why there can be no TLS as configured.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    /// A certificate or key that rustls does not take.
    #[error(transparent)]
    Material(#[from] Error),
    /// Nobody could be believed.
    #[error("the system has no root certificates; name the receiver's in `ca`")]
    NoRoots,
}

/// How encrypted connections to a receiver are opened.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    /// Whom the certificate must name.
    pub(super) name: ServerName<'static>,
    shown: Arc<Shown>,
}

impl Tls {
    pub(super) fn new(tls: &ClientTls, protocol: OtlpProtocol, name: ServerName<'static>) -> Result<Self, BadTls> {
        let (config, shown) = client(tls, protocol)?;
        Ok(Self { config, name, shown })
    }

    /// What may lie behind a connection that broke before its first answer. With TLS 1.3 a receiver judges our
    /// certificate when we have begun to send already, and the reset that follows its reason can overtake it.
    pub(super) fn suspicion(&self) -> Option<&'static str> {
        let asked = self.shown.asked.load(Ordering::Relaxed);
        asked.then_some(match self.shown.identity {
            None => "the receiver wants a certificate of ours: name it by tls.cert and tls.key",
            Some(_) => "the receiver was shown the certificate of tls.cert",
        })
    }

    /// There was an answer: no suspicion until a receiver asks again.
    pub(super) fn answered(&self) {
        self.shown.asked.store(false, Ordering::Relaxed);
    }
}

/// What rustls needs for connections of that protocol.
fn client(tls: &ClientTls, protocol: OtlpProtocol) -> Result<(Arc<ClientConfig>, Arc<Shown>), BadTls> {
    // Named, so that nothing depends on which provider another crate has made the process's default.
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let identity = tls.identity.as_ref().map(|identity| {
        CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), &provider).map(Arc::new)
    });
    let shown = Arc::new(Shown { identity: identity.transpose()?, asked: AtomicBool::new(false) });
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else {
        builder.with_root_certificates(roots(&tls.ca)?)
    };
    let mut config = builder.with_client_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesClientCert>);
    let protocol: &[u8] = match protocol {
        OtlpProtocol::Grpc => b"h2",
        OtlpProtocol::Http => b"http/1.1",
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok((Arc::new(config), shown))
}

/// Who we are, and whether anyone wanted to know.
#[derive(Debug)]
struct Shown {
    identity: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.identity.clone()
    }

    fn has_certs(&self) -> bool {
        self.identity.is_some()
    }
}

/// The configured roots and no others; without any the system's.
fn roots(configured: &[CertificateDer<'static>]) -> Result<RootCertStore, BadTls> {
    let mut roots = RootCertStore::empty();
    if configured.is_empty() {
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::warn!(%error, "some of the system's root certificates cannot be read");
        }
        // Systems carry a few old roots that are not well-formed.
        roots.add_parsable_certificates(system.certs);
    } else {
        for root in configured {
            roots.add(root.clone())?;
        }
    }
    if roots.is_empty() { Err(BadTls::NoRoots) } else { Ok(roots) }
}

/// `insecureSkipVerify`: any certificate will do, as long as its owner is the one who speaks.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
