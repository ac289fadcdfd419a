//! Names as Traefik makes them: who comes from there finds routers and services under the names of before, in metrics,
//! spans and other providers' references.

use std::fmt::Write as _;

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

/// Traefik's provider of Ingress objects.
pub(super) const INGRESS: &str = "kubernetes";
/// Of its own kinds.
pub(super) const CRD: &str = "kubernetescrd";

/// Of the Gateway API.
pub(super) const GATEWAY: &str = "kubernetesgateway";

/// Everything but letters and digits becomes `-`, once between two.
pub(super) fn normalized(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for part in name.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()) {
        if !out.is_empty() {
            out.push('-');
        }
        out.push_str(part);
    }
    out
}

/// A part's name with its provider.
pub(super) fn of(provider: &str, name: &str) -> String {
    format!("{name}@{provider}")
}

/// The name behind a reference that may name a provider; the file's parts are known without.
pub(super) fn referred(provider: &str, name: &str) -> String {
    match name.rsplit_once('@') {
        Some((local, "file")) => local.to_owned(),
        Some(_) => name.to_owned(),
        None => of(provider, name),
    }
}

/// The first ten bytes of a rule's SHA-256, in hexadecimal.
pub(super) fn hash(rule: &str) -> String {
    hex(rule, 10)
}

pub(in crate::kube) fn hex(text: &str, bytes: usize) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13();
    let digest = suite.map(|suite| suite.common.hash_provider.hash(text.as_bytes()));
    let mut out = String::with_capacity(2 * bytes);
    for byte in digest.as_ref().map(AsRef::as_ref).unwrap_or_default().iter().take(bytes) {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// A text as a value in a rule: Go's quoted string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_traefiks() {
        assert_eq!(normalized("testing-*.bar/foo.Name_1"), "testing-bar-foo-Name-1");
        assert_eq!(normalized("//"), "");
        // Of Traefik's own test table: a route of the IngressRoute `test.route` in `default`.
        let key = format!("test.route-{}", hash("Host(`foo.com`) && PathPrefix(`/bar`)"));
        assert_eq!(normalized(&format!("default-{key}")), "default-test-route-6b204d94623b3df4370c");
        assert_eq!(referred(CRD, "a@file"), "a");
        assert_eq!(referred(CRD, "a@kubernetes"), "a@kubernetes");
        assert_eq!(referred(CRD, "a"), "a@kubernetescrd");
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
