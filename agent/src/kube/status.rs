//! What we say in the status of objects. Working out what differs is pure; writing is the [`Writer`]'s, who
//! is one of all agents at a time ([`super::lease`]) and keeps a pace that the API server bears.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, warn};
use wayspan_proxy::clock::MonoNs;

use super::client::Pace;
use super::contests::{Contests, Refusals};
use super::objects::{Key, Mark, Objects};
use super::parts::{Object, Status};
use super::translate::gateway::CONTROLLER;
use super::watch::Health;

/// Traefik's figures for the writing of statuses.
const PER_SECOND: u32 = 50;
const BURST: u32 = 100;
/// Who a policy is about, in its status: the API takes so many, of all controllers.
const ANCESTORS: &str = "ancestors";
const ANCESTORS_MAX: usize = 16;
/// After writes that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Between two looks at whether what was contested still is.
const LOOK: Duration = Duration::from_secs(30);

/// A status that differs from what it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Which object.
    pub object: Object,
    /// The version that the difference is about: another writer's must not be undone.
    pub version: Option<String>,
    /// The fields to replace.
    pub status: Value,
    /// What it should say.
    pub wanted: Arc<Status>,
}

/// What statuses lack. It is kept up to date by looking only at what is new.
#[derive(Debug, Default)]
pub struct Lacking {
    /// As they were last given, in the order of their objects: the same are not looked at.
    wanted: Vec<Arc<Status>>,
    marks: [Mark; 6],
    writes: BTreeMap<Object, Arc<Write>>,
}

impl Lacking {
    /// What there is to write by now; `None`: the same as the last time.
    pub fn renew(&mut self, objects: &Objects, wanted: &[Arc<Status>], now: &str) -> Option<Arc<[Arc<Write>]>> {
        let mut due = self.touched(objects);
        let is_same = || self.wanted.iter().zip(wanted).all(|(a, b)| Arc::ptr_eq(a, b));
        if self.wanted.len() != wanted.len() || !is_same() {
            let mut wanted = wanted.to_vec();
            wanted.sort_by(|a, b| a.object.cmp(&b.object));
            if let Some(due) = &mut due {
                differing(&self.wanted, &wanted, due);
            }
            self.wanted = wanted;
        }
        let wanted = |object: &Object| {
            let place = self.wanted.binary_search_by(|one| one.object.cmp(object)).ok()?;
            self.wanted.get(place)
        };
        let all = || self.wanted.iter().map(|one| &one.object).chain(self.writes.keys()).cloned().collect();
        let mut changed = false;
        for object in due.unwrap_or_else(all) {
            let write = wanted(&object).and_then(|status| lack(objects, status, now)).map(Arc::new);
            changed |= match write {
                Some(write) => self.writes.insert(object, Arc::clone(&write)) != Some(write),
                None => self.writes.remove(&object).is_some(),
            };
        }
        changed.then(|| self.writes.values().cloned().collect())
    }

    /// Objects that somebody wrote to. `None`: too many to tell.
    fn touched(&mut self, objects: &Objects) -> Option<BTreeSet<Object>> {
        let [ingresses, classes, gateways, sets, routes, policies] = &mut self.marks;
        // Each log is read to its end, whatever the others say.
        let told = [
            ("Ingress", objects.ingresses.touches.since(ingresses)),
            ("GatewayClass", objects.gateway_classes.touches.since(classes)),
            ("Gateway", objects.gateways.touches.since(gateways)),
            ("ListenerSet", objects.listener_sets.touches.since(sets)),
            ("HTTPRoute", objects.http_routes.touches.since(routes)),
            ("BackendTLSPolicy", objects.backend_tls_policies.touches.since(policies)),
        ];
        let mut all = BTreeSet::new();
        for (kind, keys) in told {
            all.extend(keys?.into_iter().map(|key| Object { kind, key }));
        }
        Some(all)
    }
}

/// Adds the objects whose status is another value in one list than in the other; both are in the order of objects.
fn differing(before: &[Arc<Status>], now: &[Arc<Status>], into: &mut BTreeSet<Object>) {
    let mut before = before.iter().peekable();
    for new in now {
        while let Some(gone) = before.next_if(|old| old.object < new.object) {
            into.insert(gone.object.clone());
        }
        if !before.next_if(|old| old.object == new.object).is_some_and(|old| Arc::ptr_eq(old, new)) {
            into.insert(new.object.clone());
        }
    }
    into.extend(before.map(|gone| gone.object.clone()));
}

/// The difference between what a status says and what it should say.
fn lack(objects: &Objects, wanted: &Arc<Status>, now: &str) -> Option<Write> {
    let (current, version) = current(objects, &wanted.object)?;
    if !wanted.over.is_empty() && !wanted.over.contains(&current) {
        return None;
    }
    let (object, status) = difference(&current, wanted, now)?;
    Some(Write { object, version, status, wanted: Arc::clone(wanted) })
}

/// An object's status and version.
fn current(objects: &Objects, object: &Object) -> Option<(Value, Option<String>)> {
    let Key { namespace, name } = &object.key;
    if object.kind == "Ingress" {
        let ingress = objects.ingresses.get(namespace, name)?;
        let status = serde_json::to_value(&ingress.status).ok()?;
        return Some((status, ingress.metadata.resource_version.clone()));
    }
    let dynamic = objects.dynamic(object.kind, namespace, name)?;
    let status = dynamic.data.get("status").cloned().unwrap_or_default();
    Some((status, dynamic.metadata.resource_version.clone()))
}

/// The status's fields as they should be, where one of them is not.
fn difference(current: &Value, wanted: &Status, now: &str) -> Option<(Object, Value)> {
    let mut fields = wanted.body.clone();
    if let Some(fields) = fields.as_object_mut() {
        if !wanted.conditions.is_empty() {
            let conditions: Vec<Value> = wanted.conditions.iter().map(|one| one.json(wanted.generation)).collect();
            let mut merged = merged(current.get("conditions"), &conditions, now);
            // Those that somebody else keeps stay.
            let others = current.get("conditions").and_then(Value::as_array).into_iter().flatten();
            merged.extend(others.filter(|one| !conditions.iter().any(|ours| ours["type"] == one["type"])).cloned());
            fields.insert("conditions".to_owned(), merged.into());
        }
        for (list, name) in [("listeners", "name"), ("parents", "parentRef"), (ANCESTORS, "ancestorRef")] {
            if let Some(Value::Array(entries)) = fields.get_mut(list) {
                let before = current.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                let same = |one: &Value, other: &Value| {
                    one[name] == other[name] && one["controllerName"] == other["controllerName"]
                };
                for entry in entries.iter_mut() {
                    let old = before.iter().find(|old| same(old, entry)).map(|old| &old["conditions"]);
                    let conditions = entry["conditions"].as_array().cloned().unwrap_or_default();
                    entry["conditions"] = merged(old, &conditions, now).into();
                }
                if list != "listeners" {
                    let others = before.iter().filter(|one| one["controllerName"] != CONTROLLER).cloned();
                    let ours = std::mem::take(entries);
                    // In their old order, so that two controllers do not change it in turns.
                    entries.extend(others.chain(ours));
                    let place = |one: &Value| before.iter().position(|old| same(old, one)).unwrap_or(usize::MAX);
                    entries.sort_by_key(place);
                    if list == ANCESTORS {
                        entries.truncate(ANCESTORS_MAX);
                    }
                }
            }
        }
    }
    let changed = fields.as_object()?.iter().any(|(name, value)| {
        let now = current.get(name).unwrap_or(&Value::Null);
        now != value && !(now.is_null() && is_empty(value))
    });
    changed.then(|| (wanted.object.clone(), fields))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        _ => false,
    }
}

/// Conditions with the time since when they are as they are.
fn merged(before: Option<&Value>, wanted: &[Value], now: &str) -> Vec<Value> {
    let before = before.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let with_time = |one: &Value| {
        let old = before.iter().find(|old| old["type"] == one["type"]);
        let since = old.filter(|old| old["status"] == one["status"]).and_then(|old| old["lastTransitionTime"].as_str());
        let mut one = one.clone();
        one["lastTransitionTime"] = since.unwrap_or(now).into();
        one
    };
    wanted.iter().map(with_time).collect()
}

/// What an event is about.
pub fn reference(objects: &Objects, object: &Object) -> Option<ObjectReference> {
    let Key { namespace, name } = &object.key;
    let uid = match object.kind {
        "Ingress" => objects.ingresses.get(namespace, name)?.metadata.uid.clone(),
        _ => objects.dynamic(object.kind, namespace, name)?.metadata.uid.clone(),
    };
    let kind = resource(object.kind)?;
    Some(ObjectReference {
        api_version: Some(kind.api_version()),
        kind: Some(object.kind.to_owned()),
        namespace: Some(namespace.to_string()).filter(|namespace| !namespace.is_empty()),
        name: Some(name.to_string()),
        uid,
        ..ObjectReference::default()
    })
}

fn resource(kind: &str) -> Option<GroupVersionKind> {
    let (group, version) = match kind {
        "Ingress" => ("networking.k8s.io", "v1"),
        "GatewayClass" | "Gateway" | "ListenerSet" | "HTTPRoute" | "BackendTLSPolicy" => {
            ("gateway.networking.k8s.io", "v1")
        }
        "ReferenceGrant" => ("gateway.networking.k8s.io", "v1beta1"),
        "IngressRoute" | "Middleware" | "TraefikService" | "ServersTransport" | "TLSOption" | "TLSStore" => {
            ("traefik.io", "v1alpha1")
        }
        _ => return None,
    };
    Some(GroupVersionKind::gvk(group, version, kind))
}

/// The API's own fields want wall time; nothing of ours is reckoned with it.
#[must_use]
pub fn wall_time() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes what there is to write, one after the other.
pub struct Writer {
    client: Client,
    writes: watch::Receiver<Arc<[Arc<Write>]>>,
    pace: Pace,
    /// Objects whose write failed: that is said once.
    failed: HashSet<Object>,
    contests: Contests,
    refusals: Refusals,
    /// That there are some has been said.
    is_told: bool,
    health: Arc<Health>,
}

impl Writer {
    /// For one who leads.
    #[must_use]
    pub fn new(client: Client, writes: watch::Receiver<Arc<[Arc<Write>]>>, health: Arc<Health>) -> Self {
        let (contests, refusals) = (Contests::default(), Refusals::default());
        let (pace, failed) = (Pace::new(PER_SECOND, BURST), HashSet::new());
        Self { client, writes, pace, failed, contests, refusals, is_told: false, health }
    }

    /// Until nobody has work any more.
    pub async fn run(mut self) {
        let mut rest: Option<Duration> = None;
        loop {
            tokio::select! {
                changed = self.writes.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(rest.unwrap_or_default()), if rest.is_some() => {}
            }
            rest = self.write_all().await;
        }
    }

    /// All that there is to write, until newer work, which is about newer objects. Gives after how long to look again by itself:
    /// what is contested or refused is let alone for a while.
    async fn write_all(&mut self) -> Option<Duration> {
        loop {
            let contested = self.contested();
            let writes = Arc::clone(&self.writes.borrow_and_update());
            self.health.has_refused(self.refusals.keep(&writes));
            let (mut failed, mut rest) = (false, Some(LOOK).filter(|_| contested));
            for write in writes.iter() {
                if self.writes.has_changed().unwrap_or(true) {
                    return None;
                }
                if self.rest(write).is_none() {
                    failed |= !self.write(write).await;
                }
                rest = [rest, self.rest(write)].into_iter().flatten().min();
            }
            if !failed {
                // Who is due a moment later is written with the others.
                return rest.map(|rest| rest.max(RETRY));
            }
            sleep(RETRY).await;
        }
    }

    /// How long a write is let alone.
    fn rest(&self, write: &Write) -> Option<Duration> {
        let now = MonoNs::now();
        self.contests.rest(&write.wanted, now).or_else(|| self.refusals.rest(write, now))
    }

    /// Whether there are contests; counts them.
    fn contested(&mut self) -> bool {
        let contested = self.contests.forget(MonoNs::now());
        self.health.has_contested(contested);
        self.is_told &= contested > 0;
        contested > 0
    }

    /// Notes a write, and says so where the same was written again and again.
    fn written(&mut self, write: &Write) {
        debug!(object = %write.object, "status written");
        self.failed.remove(&write.object);
        self.refusals.written(write);
        if self.contests.written(&write.wanted, MonoNs::now()) && !std::mem::replace(&mut self.is_told, true) {
            warn!(
                object = %write.object,
                "somebody keeps changing statuses to something else, most likely another release or controller that serves the same \
                 objects: they are written less and less often; give each an ingressClass of its own"
            );
        }
        self.contested();
    }

    /// Whether it is done with.
    async fn write(&mut self, write: &Arc<Write>) -> bool {
        let Some(kind) = resource(write.object.kind) else { return true };
        let resource = ApiResource::from_gvk(&kind);
        let Key { namespace, name } = &write.object.key;
        let api: Api<DynamicObject> = match &**namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        sleep(self.pace.take(MonoNs::now())).await;
        let patch = json!({"metadata": {"resourceVersion": write.version}, "status": write.status});
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {
                self.written(write);
                true
            }
            // Gone, or somebody was faster: news of it is on its way.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(error) => {
                if self.failed.insert(write.object.clone()) {
                    warn!(object = %write.object, %error, "a status cannot be written; it is tried again");
                }
                // What is refused for what it is, or who we are, will be the next time too.
                let is_refused =
                    matches!(&error, kube::Error::Api(status) if matches!(status.code, 400..=428 | 430..=499));
                if is_refused {
                    self.health.has_refused(self.refusals.refused(write, MonoNs::now()));
                }
                is_refused
            }
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("pace", &self.pace).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::Ingress;

    use super::super::feed::tests::{client, refused};
    use super::super::parts::Condition;
    use super::*;

    fn status(kind: &'static str, conditions: Vec<Condition>, body: Value) -> Status {
        Status::new(Object { kind, key: Key::new("default", "x") }, 2, conditions, body)
    }

    fn written(current: &Value, wanted: &Status) -> Option<Value> {
        difference(current, wanted, "NOW").map(|(_, status)| status)
    }

    #[test]
    fn only_what_differs_is_written_and_times_stay_while_nothing_turned() {
        let wanted =
            status("Gateway", vec![Condition::new("Accepted", true, "Accepted", "")], json!({"addresses": []}));
        let first = written(&Value::Null, &wanted).unwrap();
        assert_eq!(first["conditions"][0]["lastTransitionTime"], "NOW");
        assert_eq!(written(&first, &wanted), None);
        // Another reason is news, and no turn.
        let wanted = status("Gateway", vec![Condition::new("Accepted", true, "ListenersNotValid", "")], json!({}));
        let mut before = first.clone();
        before["conditions"][0]["lastTransitionTime"] = "THEN".into();
        assert_eq!(written(&before, &wanted).unwrap()["conditions"][0]["lastTransitionTime"], "THEN");
        let wanted = status("Gateway", vec![Condition::new("Accepted", false, "Invalid", "")], json!({}));
        assert_eq!(written(&before, &wanted).unwrap()["conditions"][0]["lastTransitionTime"], "NOW");
        // Somebody else's condition stays.
        before["conditions"].as_array_mut().unwrap().push(json!({"type": "Other", "status": "True"}));
        let kept = written(&before, &wanted).unwrap();
        assert_eq!(kept["conditions"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_parents_of_other_controllers_stay_where_they_are() {
        let theirs = json!({"parentRef": {"name": "t"}, "controllerName": "their/s", "conditions": []});
        let ours = |holds| {
            json!({"parentRef": {"name": "g"}, "controllerName": CONTROLLER,
                   "conditions": [Condition::new("Accepted", holds, "Accepted", "").json(2)]})
        };
        let wanted = status("HTTPRoute", vec![], json!({"parents": [ours(true)]}));
        let first = written(&json!({"parents": [theirs]}), &wanted).unwrap();
        assert_eq!(first["parents"][0], theirs);
        assert_eq!(first["parents"][1]["conditions"][0]["lastTransitionTime"], "NOW");
        assert_eq!(written(&first, &wanted), None);
        let turned = json!({"parents": [first["parents"][1], theirs]});
        assert_eq!(written(&turned, &wanted), None);
        // A route that is no longer ours loses our word and keeps theirs.
        let wanted = status("HTTPRoute", vec![], json!({"parents": []}));
        assert_eq!(written(&first, &wanted), Some(json!({"parents": [theirs]})));
        assert_eq!(written(&Value::Null, &wanted), None);
    }

    #[test]
    fn a_policy_keeps_the_ancestors_of_others_and_has_no_more_than_the_api_takes() {
        let one = |controller: &str, number: usize| json!({"ancestorRef": {"name": format!("g{number}")}, "controllerName": controller, "conditions": []});
        let theirs: Vec<Value> = (0..15).map(|number| one("their/s", number)).collect();
        let ours = [one(CONTROLLER, 0), one(CONTROLLER, 1)];
        let wanted = status("BackendTLSPolicy", vec![], json!({"ancestors": ours}));
        let first = written(&json!({"ancestors": theirs}), &wanted).unwrap();
        let got = first["ancestors"].as_array().unwrap();
        assert_eq!((got.len(), got.get(15), got.get(..15)), (16, Some(&ours[0]), Some(&*theirs)));
        assert_eq!(written(&first, &wanted), None);
        let wanted = status("BackendTLSPolicy", vec![], json!({"ancestors": []}));
        assert_eq!(written(&first, &wanted), Some(json!({"ancestors": theirs})));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_that_the_server_refuses_is_let_alone_until_it_is_another() {
        for code in [403, 422] {
            let server = wayspan_tests::Upstream::start(move |_| refused(code)).unwrap();
            let write = |version: &str| -> Arc<[Arc<Write>]> {
                let wanted = Arc::new(status("Ingress", vec![], json!({})));
                let (object, version) = (wanted.object.clone(), Some(version.to_owned()));
                Arc::from([Arc::new(Write { object, version, status: json!({}), wanted })])
            };
            let (writes, seen) = watch::channel(write("1"));
            let health = Arc::new(Health::default());
            let mut writer = Writer::new(client(&server), seen, Arc::clone(&health));
            for (version, requests) in [("1", 1), ("1", 1), ("2", 2)] {
                writes.send_replace(write(version));
                let rest = tokio::time::timeout(RETRY / 2, writer.write_all()).await.expect("it is not tried again");
                assert!(rest > Some(RETRY), "{rest:?}");
                assert_eq!(
                    (server.requests().len(), health.read().statuses_refused),
                    (requests, 1),
                    "{code} {version}"
                );
            }
            writes.send_replace(Arc::from([]));
            assert_eq!((writer.write_all().await, health.read().statuses_refused), (None, 0));
        }
    }

    #[test]
    fn only_what_is_new_is_looked_at_and_what_is_written_is_written_no_more() {
        let ingress = |name: &str, address: &str, version: &str| -> Ingress {
            let metadata = json!({"name": name, "namespace": "default", "resourceVersion": version, "generation": 1});
            let status = json!({"loadBalancer": {"ingress": [{"ip": address}]}});
            serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
        };
        let wanted = |name: &str| {
            let object = Object { kind: "Ingress", key: Key::new("default", name) };
            let body = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}});
            Arc::new(Status::new(object, 0, Vec::new(), body))
        };
        let mut objects = Objects::default();
        objects.ingresses.put(ingress("a", "10.9.9.9", "1"));
        objects.ingresses.put(ingress("b", "10.0.0.1", "1"));
        let mut lacking = Lacking::default();
        let mut names = |objects: &Objects, wanted: &[Arc<Status>]| {
            let writes = lacking.renew(objects, wanted, "NOW")?;
            Some(
                writes.iter().map(|write| format!("{} {:?}", write.object.key.name, write.version)).collect::<Vec<_>>(),
            )
        };
        let both = [wanted("a"), wanted("b")];
        assert_eq!(names(&objects, &both), Some(vec!["a Some(\"1\")".to_owned()]));
        assert_eq!(names(&objects, &both), None);
        // Somebody else was faster: the write is about another version.
        objects.ingresses.put(ingress("a", "10.9.9.8", "2"));
        assert_eq!(names(&objects, &both), Some(vec!["a Some(\"2\")".to_owned()]));
        // Written.
        objects.ingresses.put(ingress("a", "10.0.0.1", "3"));
        assert_eq!(names(&objects, &both), Some(vec![]));
        // What is no longer ours is let alone.
        objects.ingresses.put(ingress("b", "10.9.9.9", "2"));
        assert_eq!(names(&objects, &both), Some(vec!["b Some(\"2\")".to_owned()]));
        assert_eq!(names(&objects, &both[..1]), Some(vec![]));
    }

    #[test]
    fn what_is_written_is_seen_of_each_kind_that_has_a_status() {
        for kind in ["GatewayClass", "Gateway", "ListenerSet", "HTTPRoute", "BackendTLSPolicy"] {
            let (mut objects, mut lacking) = (Objects::default(), Lacking::default());
            let put = |objects: &mut Objects, said: &str, version: &str| {
                let set = match kind {
                    "GatewayClass" => &mut objects.gateway_classes,
                    "Gateway" => &mut objects.gateways,
                    "ListenerSet" => &mut objects.listener_sets,
                    "BackendTLSPolicy" => &mut objects.backend_tls_policies,
                    _ => &mut objects.http_routes,
                };
                let metadata =
                    json!({"name": "x", "namespace": "default", "generation": 1, "resourceVersion": version});
                set.put(serde_json::from_value(json!({"metadata": metadata, "status": {"said": said}})).unwrap());
            };
            let wanted = [Arc::new(status(kind, vec![], json!({"said": "new"})))];
            let mut count = |objects: &Objects| lacking.renew(objects, &wanted, "NOW").map(|writes| writes.len());
            put(&mut objects, "old", "1");
            assert_eq!((count(&objects), count(&objects)), (Some(1), None), "{kind}");
            put(&mut objects, "new", "2");
            assert_eq!(count(&objects), Some(0), "{kind}");
        }
    }
}
