//! TLS in the api's words: what entry points and routers say of it, and the certificates. Nothing of a key is ever told.

use serde_json::{Value, json};

use super::View;
use crate::config::model::{Certificate, RouterTls};

/// Adds `tls` to a part's fields, as Traefik does where there is any.
pub(super) fn with(mut fields: Value, tls: Option<&RouterTls>) -> Value {
    if let Some(RouterTls { options, domains }) = tls {
        let mut told = json!({"options": options.as_deref().unwrap_or("default")});
        if !domains.is_empty() {
            told["domains"] = domains.iter().map(|(main, sans)| json!({"main": main, "sans": sans})).collect();
        }
        fields["tls"] = told;
    }
    fields
}

/// `/api/certificates`: those that end first go first.
pub(in crate::api) fn certificates(view: &View<'_>) -> Value {
    let default = view.dynamic.default_certificate.iter().map(|one| (one, true));
    let mut all: Vec<(&Certificate, bool)> =
        view.dynamic.certificates.iter().map(|one| (one, false)).chain(default).collect();
    all.sort_by_key(|(one, _)| (one.not_after, one.origin.as_str()));
    let told = all.into_iter().map(|(one, is_default)| {
        json!({
            "origin": one.origin,
            "commonName": one.common_name,
            "sans": one.names,
            "issuer": one.issuer,
            "serialNumber": one.serial,
            "notBefore": one.not_before,
            "notAfter": one.not_after,
            "default": is_default,
        })
    });
    told.collect()
}
