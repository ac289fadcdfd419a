//! TLSOption and TLSStore objects. Options are written in the words of the file, and read by the file's reader; whom they let in
//! is in Secrets. What is called `default` is for whoever names none, in all namespaces: of several the oldest counts, so that
//! nobody takes away by a second one what the first says, or its certificate. One that asks for client certificates is for its
//! own namespace, or whoever may write it could shut everybody's doors.

use std::sync::Arc;

use kube::core::DynamicObject;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::super::{Object, Out};
use super::schema::StoreSpec;
use super::{OPTION, called};
use crate::config::fragment;
use crate::config::model::{KubernetesProvider, TlsOptions};
use crate::kube::light;
use crate::kube::objects::Key;

const DEFAULT: &str = "default";
const STORE: &str = "TLSStore";

/// A place in an object, and what is wrong there.
type Wrong = (&'static str, String);

/// All of them.
pub(in super::super) fn translate(out: &mut Out<'_>, settings: &KubernetesProvider) {
    options(out, settings);
    stores(out, settings);
}

fn options(out: &mut Out<'_>, settings: &KubernetesProvider) {
    let view = out.view;
    let serves = |(key, _): &(&Key, _)| settings.serves(&key.namespace);
    // Whether there is one that asks clients for certificates nobody knows: all of them, or those of its own namespace.
    for scope in view.refused().scopes(OPTION) {
        match scope {
            Some(namespace) if !settings.serves(namespace) => {}
            Some(namespace) if !settings.names_for_defaults(namespace) => {
                // No object's name has a slash: nobody else's options are taken for those that are not seen.
                out.parts
                    .own_defaults
                    .insert(namespace.as_ref().into(), format!("{namespace}/{DEFAULT}@kubernetescrd"));
            }
            None | Some(_) => out.parts.default_options_lost = true,
        }
    }
    let may_be_alls =
        |key: &Key, one: &DynamicObject| !asks_clients(spec(one)) || settings.names_for_defaults(&key.namespace);
    let first = first(view.all(OPTION), settings, may_be_alls);
    for (key, object) in view.all(OPTION).filter(serves) {
        let id = Object { kind: OPTION, key: key.clone() };
        let (spec, is_called_default) = (spec(object), &*key.name == DEFAULT);
        let is_default = is_called_default && first == Some(key);
        let is_own = is_called_default && !is_default && asks_clients(spec);
        let name = if is_default { DEFAULT.to_owned() } else { called(OPTION, &key.namespace, &key.name) };
        if is_own {
            out.problem(&id, "spec.clientAuth", own(&id, first, settings));
            out.parts.own_defaults.insert(key.namespace.clone(), name.clone());
        } else if let Some(message) = uncounted(&id, first, settings).filter(|_| is_called_default) {
            out.problem(&id, "", message);
            continue;
        }
        out.parts.option_keys.insert(name.clone(), ());
        match read(out, &id, spec) {
            Ok(mut options) => {
                options.name = name;
                out.parts.tls_options.insert(options.name.clone(), options);
            }
            Err((path, message)) if is_default => {
                // A door that was meant to be closed stays closed; for anything else nobody is to lose all routes.
                let lost = asks_clients(spec);
                out.parts.default_options_lost |= lost;
                let instead = match lost {
                    true => "since it asks for client certificates, routes with the default options answer 500",
                    false => "the built-in default options hold instead",
                };
                out.problem(&id, path, format!("{message}; {instead}; mend it"));
            }
            Err((path, message)) if is_own => {
                let namespace = &key.namespace;
                let message = format!("{message}; routes of {namespace} with the default options answer 500; mend it");
                out.problem(&id, path, message);
            }
            Err((path, message)) => out.problem(&id, path, message),
        }
    }
}

fn stores(out: &mut Out<'_>, settings: &KubernetesProvider) {
    let view = out.view;
    let serves = |(key, _): &(&Key, _)| settings.serves(&key.namespace);
    let first = first(view.all(STORE), settings, |_, _| true);
    for (key, object) in view.all(STORE).filter(serves) {
        let id = Object { kind: STORE, key: key.clone() };
        if &*key.name != DEFAULT {
            out.problem(&id, "", "there is one store; call it `default`");
        } else if let Some(message) = uncounted(&id, first, settings) {
            out.problem(&id, "", message);
        } else {
            store(out, &id, spec(object));
        }
    }
}

fn spec(object: &DynamicObject) -> &Value {
    object.data.get("spec").unwrap_or(&Value::Null)
}

/// The `default` that counts for all: of those that may be one the oldest, of equals the first by namespace.
fn first<'o>(
    all: impl Iterator<Item = (&'o Key, &'o Arc<DynamicObject>)>,
    settings: &KubernetesProvider,
    may_be: impl Fn(&Key, &DynamicObject) -> bool,
) -> Option<&'o Key> {
    let may = |key: &Key| {
        &*key.name == DEFAULT && settings.serves(&key.namespace) && settings.may_set_defaults(&key.namespace)
    };
    let all = all.filter(|(key, one)| may(key) && may_be(key, one));
    all.min_by_key(|(key, one)| (one.metadata.creation_timestamp.as_ref().map(|time| time.0), *key)).map(|(key, _)| key)
}

/// Why a `default` does not count.
fn uncounted(id: &Object, first: Option<&Key>, settings: &KubernetesProvider) -> Option<String> {
    let Object { kind, key } = id;
    if !settings.may_set_defaults(&key.namespace) {
        return Some(format!(
            "does not count, since tlsDefaultsNamespaces does not name {}; add it there, or call this one otherwise",
            key.namespace
        ));
    }
    let other = first.filter(|first| *first != key)?;
    Some(format!(
        "does not count, since {kind} {other} is older and there is one `default` for all namespaces; remove one"
    ))
}

/// Why a `default` counts for its own namespace alone.
fn own(id: &Object, first: Option<&Key>, settings: &KubernetesProvider) -> String {
    let Object { kind, key } = id;
    let namespace = &key.namespace;
    let why = match first.filter(|_| settings.names_for_defaults(namespace)) {
        Some(first) => format!("{kind} {first} is older and for all; remove one"),
        None => format!(
            "that is not asked of all for one namespace; add {namespace} to tlsDefaultsNamespaces to have it so"
        ),
    };
    format!("asks for client certificates, and is for the routes of {namespace} alone, since {why}")
}

/// Whether options ask clients for certificates, as far as it can be told: what is misspelt may have been meant to.
fn asks_clients(spec: &Value) -> bool {
    let fields = spec.as_object().into_iter().flatten();
    let mut meant = fields.filter(|(word, auth)| word.eq_ignore_ascii_case("clientAuth") && !auth.is_null());
    meant.any(|(_, auth)| asks(auth))
}

fn asks(auth: &Value) -> bool {
    const NAMES: [&str; 2] = ["secretNames", "caFiles"];
    let Some(auth) = auth.as_object() else { return true };
    let is_known = |word: &str| word == "clientAuthType" || NAMES.contains(&word);
    if auth.iter().any(|(word, value)| !is_known(word) && !value.is_null()) {
        return true;
    }
    let kind = auth.get("clientAuthType").filter(|kind| !kind.is_null() && *kind != "");
    let names = NAMES.iter().filter_map(|word| auth.get(*word));
    let names_any =
        || names.into_iter().any(|names| !names.is_null() && names.as_array().is_none_or(|all| !all.is_empty()));
    kind.map_or_else(names_any, |kind| !kind.as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("NoClientCert")))
}

fn read(out: &Out<'_>, id: &Object, spec: &Value) -> Result<TlsOptions, Wrong> {
    let mut spec = if spec.is_null() { json!({}) } else { spec.clone() };
    if let Some(fields) = spec.as_object_mut() {
        // As in Traefik, where it has had no effect for long.
        fields.remove("preferServerCipherSuites");
    }
    if let Some(auth) = spec.get_mut("clientAuth").and_then(Value::as_object_mut) {
        if auth.contains_key("caFiles") {
            // A path of ours is nothing for an object to name.
            return Err(("spec.clientAuth.caFiles", "is a file's word; name Secrets in secretNames".to_owned()));
        }
        if let Some(names) = auth.remove("secretNames") {
            const PLACE: &str = "spec.clientAuth.secretNames";
            let names =
                Vec::<String>::deserialize(&names).map_err(|error| (PLACE, format!("cannot be read: {error}")))?;
            let roots = names.iter().map(|name| roots(out, &id.key.namespace, name)).collect::<Result<Vec<_>, _>>();
            let roots = roots.map_err(|message| (PLACE, message))?;
            if !roots.is_empty() {
                auth.insert("caFiles".to_owned(), roots.into());
            }
        }
    }
    let (dynamic, faults) = fragment::part(&id.to_string(), "tls.options", &spec);
    if let Some(fault) = faults.first() {
        let place = fault.path.replace("clientAuth.caFiles", "clientAuth.secretNames");
        let colon = if place.is_empty() { "" } else { ": " };
        return Err(("", format!("{place}{colon}{}", fault.message)));
    }
    dynamic.tls_options.into_iter().next().ok_or_else(|| ("spec", "cannot be used".to_owned()))
}

/// Whom a Secret certifies, in PEM. Its text is never taken for a path.
fn roots(out: &Out<'_>, namespace: &str, name: &str) -> Result<String, String> {
    let key = Key::new(namespace, name);
    let secret = out.view.secret(namespace, name).ok_or_else(|| format!("there is no Secret {key}"))?;
    let entry = |name: &str| light::entry(secret, name).map_err(|message| format!("Secret {key} {message}"));
    let pem = entry("tls.ca")?.or(entry("ca.crt")?).ok_or_else(|| format!("Secret {key} has no tls.ca or ca.crt"))?;
    let text = String::from_utf8_lossy(pem);
    // What stands before it would make it a path.
    let text = text.find("-----BEGIN").and_then(|at| text.get(at..));
    text.map(str::to_owned).ok_or_else(|| format!("Secret {key} holds no certificate in PEM in tls.ca or ca.crt"))
}

fn store(out: &mut Out<'_>, id: &Object, spec: &Value) {
    let spec = match Option::<StoreSpec>::deserialize(spec) {
        Ok(spec) => spec.unwrap_or_default(),
        Err(error) => return out.problem(id, "spec", format!("cannot be read: {error}")),
    };
    let namespace = id.key.namespace.clone();
    for (index, certificate) in spec.certificates.iter().flatten().enumerate() {
        if let Err(message) = out.certificate(id, &namespace, &certificate.secret_name) {
            out.problem(id, format!("spec.certificates[{index}].secretName"), message);
        }
    }
    if let Some(certificate) = &spec.default_certificate {
        match out.one_certificate(&namespace, &certificate.secret_name) {
            Ok(certificate) => out.parts.default_certificate = Some(certificate.certificate),
            Err(message) => out.problem(id, "spec.defaultCertificate.secretName", message),
        }
    } else if spec.default_generated_cert.is_some() {
        out.problem(id, "spec.defaultGeneratedCert", "not supported yet; name a Secret in defaultCertificate");
    }
}
