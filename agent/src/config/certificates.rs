//! Certificates and private keys in PEM, from a file that the configuration names or from its own text. What they are
//! used for is `export`'s.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The system's own list of roots is a quarter of this.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// All certificates, in their order; at least one. A relative path starts at `base`.
pub(super) fn certificates(base: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = pem(base, text)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.unwrap_or_default();
    if all.is_empty() { Err("holds no certificate in PEM".to_owned()) } else { Ok(all) }
}

/// The first private key.
pub(super) fn private_key(base: &Path, text: &str) -> Result<Arc<PrivateKeyDer<'static>>, String> {
    let key = PrivateKeyDer::from_pem_slice(&pem(base, text)?);
    key.map(Arc::new).map_err(|_| "holds no private key in PEM".to_owned())
}

fn pem<'t>(base: &Path, text: &'t str) -> Result<Cow<'t, [u8]>, String> {
    if text.trim_start().starts_with("-----BEGIN") {
        return Ok(text.as_bytes().into());
    }
    // Not the text itself: it may be a key whose first line was lost.
    let unreadable = |error| format!("cannot be read: {error}; name a file in PEM, or write its text");
    let mut bytes = Vec::new();
    let file = File::open(base.join(text)).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_keys_are_read_from_files_and_from_the_text_itself() {
        let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        std::fs::write(base.join("both.pem"), format!("# a comment\n{key}\n{certificate}{certificate}")).unwrap();
        assert_eq!(certificates(base, "both.pem").unwrap(), [made.cert.der().clone(), made.cert.der().clone()]);
        assert_eq!(certificates(Path::new("elsewhere"), &format!("\n{certificate}")).unwrap().len(), 1);
        let absolute = base.join("both.pem");
        assert_eq!(private_key(Path::new("elsewhere"), absolute.to_str().unwrap()), private_key(base, &key));

        let told = |text: &str| [certificates(base, text).unwrap_err(), private_key(base, text).unwrap_err()];
        for message in told("missing.pem") {
            assert!(message.starts_with("cannot be read: No such file"), "{message}");
        }
        std::fs::write(base.join("empty.pem"), "").unwrap();
        let cut = key.get(..60).unwrap();
        for text in ["empty.pem", "-----BEGIN NONSENSE-----\n", cut] {
            assert_eq!(told(text), ["holds no certificate in PEM", "holds no private key in PEM"], "{text}");
        }
        // A key without its first line is taken for a path, and must not come back in a message.
        let secret = key.lines().nth(1).unwrap();
        assert!(!told(secret).concat().contains(secret));
    }
}
