//! Middleware objects. Their specs are written in the words of the file, and read by the file's reader: what it does not
//! support yet, it refuses here too, and routers that name such a middleware are not served without it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::core::DynamicObject;
use serde_json::Value;
use wayspan_proxy::middleware::User;

use super::super::specs::Specs;
use super::super::{Object, Out};
use super::schema::Reference;
use super::{MIDDLEWARE, called, referred};
use crate::config::fragment;
use crate::config::model::{KubernetesProvider, Middleware, MiddlewareKind};
use crate::kube::light;
use crate::kube::objects::Key;

/// What was read of them.
#[derive(Debug, Default)]
pub(in super::super) struct Known {
    kinds: Specs<Read>,
}

impl Known {
    pub(super) fn forget_unused(&mut self) {
        self.kinds.forget_unused();
    }
}

/// A middleware, or the names of those that it stands for.
#[derive(Debug)]
enum Read {
    Kind(MiddlewareKind),
    Chain(Vec<Reference>),
    /// It needs what is in a Secret, which may change without it.
    Users(Value, String),
}

/// A Middleware.
pub(in super::super) fn translate(
    out: &mut Out<'_>,
    known: &mut Known,
    settings: &KubernetesProvider,
    (key, object): (&Key, &Arc<DynamicObject>),
) {
    let id = Object { kind: MIDDLEWARE, key: key.clone() };
    let name = called(MIDDLEWARE, &key.namespace, &key.name);
    out.parts.middleware_keys.insert(name.clone(), id.clone());
    let read = known.kinds.read(key, object, |spec| read(&id, spec));
    let kind = match &*read {
        Ok(Read::Kind(kind)) => Ok(kind.clone()),
        Ok(Read::Chain(members)) => {
            let names: Result<Vec<_>, _> =
                members.iter().map(|member| referred(settings, MIDDLEWARE, &key.namespace, member)).collect();
            match names {
                Ok(names) => {
                    out.parts.chains.insert(name, names);
                }
                Err(message) => out.problem(&id, "spec.chain.middlewares", message),
            }
            return;
        }
        Ok(Read::Users(spec, secret)) => users(out, &key.namespace, secret).and_then(|users| {
            let mut spec = spec.clone();
            spec["basicAuth"]["users"] = users.into();
            self::kind(&id, &spec)
        }),
        Err(message) => Err(message.clone()),
    };
    match kind {
        Ok(kind) => {
            out.parts.middlewares.insert(name.clone(), Middleware { name, kind });
        }
        Err(message) => out.problem(&id, "", message),
    }
}

fn read(id: &Object, spec: &Value) -> Result<Read, String> {
    let kinds = spec.as_object().into_iter().flatten().filter(|(_, settings)| !settings.is_null());
    let kinds: Vec<&str> = kinds.map(|(kind, _)| kind.as_str()).collect();
    if kinds.len() > 1 {
        return Err(format!("spec: has several kinds ({}); make a Middleware of each", kinds.join(", ")));
    }
    if let Some(members) = spec.pointer("/chain/middlewares") {
        let members = serde::Deserialize::deserialize(members);
        return members.map(Read::Chain).map_err(|error| format!("spec.chain.middlewares: {error}"));
    }
    if let Some(auth) = spec.get("basicAuth").and_then(Value::as_object) {
        let secret = auth.get("secret").and_then(Value::as_str).unwrap_or_default();
        let mut rest = auth.clone();
        rest.remove("secret");
        if secret.is_empty() || rest.contains_key("users") || rest.contains_key("usersFile") {
            // A path of ours is nothing for an object to name.
            return Err("spec.basicAuth: names no Secret".to_owned());
        }
        return Ok(Read::Users(serde_json::json!({ "basicAuth": rest }), secret.to_owned()));
    }
    kind(id, spec).map(Read::Kind)
}

fn kind(id: &Object, spec: &Value) -> Result<MiddlewareKind, String> {
    let (dynamic, faults) = fragment::part(&id.to_string(), "http.middlewares", spec);
    if let Some(fault) = faults.first() {
        let place = if fault.path.is_empty() { String::new() } else { format!("{}: ", fault.path) };
        return Err(format!("{place}{}", fault.message));
    }
    let first = dynamic.middlewares.into_iter().next();
    first.map(|middleware| middleware.kind.clone()).ok_or_else(|| "names no kind that can be used".to_owned())
}

/// A Secret's users as `htpasswd` writes them: its only entry, or a name and a password of the type that has these.
fn users(out: &Out<'_>, namespace: &str, name: &str) -> Result<Vec<String>, String> {
    let secret = out.view.secret(namespace, name);
    let secret: &Secret =
        secret.ok_or_else(|| format!("spec.basicAuth.secret: there is no Secret {namespace}/{name}"))?;
    let wrong = |what: &str| format!("spec.basicAuth.secret: Secret {namespace}/{name} {what}");
    let entry = |name: &str| light::entry(secret, name).map_err(|message| wrong(&message));
    if secret.type_.as_deref() == Some("kubernetes.io/basic-auth") {
        let (Some(user), Some(password)) = (entry("username")?, entry("password")?) else {
            return Err(wrong("has no username and password"));
        };
        let user = std::str::from_utf8(user).ok().filter(|user| !user.is_empty() && !user.contains([':', '\n']));
        let user = user.ok_or_else(|| wrong("has no username without a colon"))?;
        return Ok(vec![User::line(user, password)]);
    }
    entry("users")?;
    let text = String::from_utf8_lossy(light::only_entry(secret).ok_or_else(|| wrong("has not one entry"))?);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    if lines.is_empty() { Err(wrong("names no users")) } else { Ok(lines) }
}
