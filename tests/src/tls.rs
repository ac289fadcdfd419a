//! A client that speaks TLS and says what it saw: whose certificate it was shown, whether a session was resumed. It sends each
//! piece in a record of its own. It believes anyone. Not for production use.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme};

use crate::http::Response;
use crate::time::PATIENCE;

/// A certificate and its key in PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub pem: String,
    /// Its private key.
    pub key: String,
}

/// What certifies others.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    /// Its own certificate in PEM.
    pub pem: String,
}

impl Certificate {
    /// One for these names that certifies itself.
    ///
    /// # Errors
    /// A name that is none.
    pub fn of(names: &[&str]) -> Result<Self> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names)?;
        Ok(Self { pem: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }

    /// Its first certificate as it stands on the wire.
    ///
    /// # Errors
    /// There is none.
    pub fn der(&self) -> Result<Vec<u8>> {
        Ok(CertificateDer::from_pem_slice(self.pem.as_bytes())?.to_vec())
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// No key could be made.
    pub fn new() -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: rcgen::Issuer::new(params, key), pem })
    }

    /// A certificate from it.
    ///
    /// # Errors
    /// A name that is none.
    pub fn certify(&self, name: &str) -> Result<Certificate> {
        let key = rcgen::KeyPair::generate()?;
        let params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        Ok(Certificate { pem: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// Believes whoever speaks.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// How to speak: who we are, if anyone asks, and whether TLS 1.2 is the newest that we know. Sessions are resumed by who
/// takes the same again.
///
/// # Errors
/// A certificate that rustls does not take.
pub fn settings(identity: Option<&Certificate>, old: bool) -> Result<Arc<ClientConfig>> {
    let versions: &[_] = if old { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(versions)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone));
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(Certificate { pem, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes())?];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
        }
    };
    Ok(Arc::new(config))
}

/// A connection.
pub struct Client {
    tls: ClientConnection,
    stream: TcpStream,
}

impl Client {
    /// Connects and shakes hands; reads and writes give up after [`PATIENCE`]. A name that is an address is not told.
    ///
    /// # Errors
    /// The system's, or why there is no TLS.
    pub fn open(address: SocketAddr, name: &str, settings: &Arc<ClientConfig>) -> Result<Self> {
        let mut client = Self::connect(address, name, settings)?;
        client.shake()?;
        Ok(client)
    }

    /// Connects only.
    ///
    /// # Errors
    /// The system's, or a name that is none.
    pub fn connect(address: SocketAddr, name: &str, settings: &Arc<ClientConfig>) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let tls = ClientConnection::new(Arc::clone(settings), ServerName::try_from(name.to_owned())?)?;
        Ok(Self { tls, stream })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// Why there is no TLS.
    pub fn shake(&mut self) -> Result<()> {
        while self.tls.is_handshaking() {
            self.flush()?;
            if self.tls.wants_read() {
                self.receive()?;
            }
        }
        self.flush()
    }

    /// The socket itself.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The certificate that it was shown, as it stands on the wire.
    #[must_use]
    pub fn peer(&self) -> Vec<u8> {
        self.tls.peer_certificates().and_then(|chain| chain.first()).map(|one| one.to_vec()).unwrap_or_default()
    }

    /// Whether a session was resumed.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The record that holds these bytes, not sent yet.
    ///
    /// # Errors
    /// More than a record holds.
    pub fn sealed(&mut self, plain: &[u8]) -> Result<Vec<u8>> {
        self.tls.writer().write_all(plain)?;
        let mut record = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut record)?;
        }
        Ok(record)
    }

    /// Sends bytes in a record of their own.
    ///
    /// # Errors
    /// The system's.
    pub fn send(&mut self, plain: impl AsRef<[u8]>) -> Result<()> {
        let record = self.sealed(plain.as_ref())?;
        self.stream.write_all(&record).context("send")
    }

    /// Sends a GET and reads its answer.
    ///
    /// # Errors
    /// The system's, or an answer that is none.
    pub fn get(&mut self, host: &str, target: &str) -> Result<Response> {
        self.send(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n"))?;
        self.read_response()
    }

    /// Reads an answer that has a length.
    ///
    /// # Errors
    /// The system's, or an answer that is none.
    pub fn read_response(&mut self) -> Result<Response> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.read_exact(&mut byte).context("the answer's head")?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).context("no status")?;
        let fields = lines.filter_map(|line| line.split_once(':'));
        let headers = fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        let mut response = Response { status, headers, body: Vec::new() };
        let length = response.header("content-length").unwrap_or("0").parse()?;
        response.body.resize(length, 0);
        self.read_exact(&mut response.body).context("the answer's body")?;
        Ok(response)
    }

    fn flush(&mut self) -> Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.stream)?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        if self.tls.read_tls(&mut self.stream)? == 0 && self.tls.is_handshaking() {
            bail!("the peer closed instead of shaking hands");
        }
        self.tls.process_new_packets()?;
        Ok(())
    }
}

impl Read for Client {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.tls.reader().read(out) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.receive().map_err(std::io::Error::other)?;
                }
                read => return read,
            }
        }
    }
}
