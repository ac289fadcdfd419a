//! Where clients reach us: the addresses of all nodes with an agent that is ready. Only who writes statuses asks for them: were
//! each agent to watch all others, a large cluster's API server would have to tell each of every one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::interval;
use tracing::{debug, warn};
use wayspan_proxy::clock::MonoNs;

use super::client::causes;
use super::feed::is_forbidden;
use super::watch::REFUSALS_MAX;

/// Addresses for statuses, by type and value, sorted; `None`: not known yet.
pub type Addresses = Option<Arc<[(String, String)]>>;

/// How long a node counts after its agent was last ready: an update replaces them one after the other, and statuses of all
/// objects are not to be written twice for each.
const STAY: Duration = Duration::from_secs(30);
/// Between two looks at who is still there.
const LOOK: Duration = Duration::from_secs(5);
/// Addresses of one status: each object holds them all.
const ADDRESSES_MAX: usize = 100;

/// What was heard of one kind, by name.
#[derive(Debug)]
struct Heard<T> {
    all: BTreeMap<String, T>,
    listed: BTreeMap<String, T>,
    /// It is known which there are, or that this cannot be known.
    complete: bool,
    refusals: u32,
}

impl<T> Default for Heard<T> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), listed: BTreeMap::new(), complete: false, refusals: 0 }
    }
}

impl<T> Heard<T> {
    fn hear<K: ResourceExt>(&mut self, what: &str, event: Result<Event<K>, watcher::Error>, read: impl Fn(&K) -> T) {
        match event {
            Ok(Event::Init) => self.listed.clear(),
            Ok(Event::InitApply(one)) => drop(self.listed.insert(one.name_any(), read(&one))),
            Ok(Event::InitDone) => {
                self.all = std::mem::take(&mut self.listed);
                (self.complete, self.refusals) = (true, 0);
            }
            Ok(Event::Apply(one)) => drop(self.all.insert(one.name_any(), read(&one))),
            Ok(Event::Delete(one)) => drop(self.all.remove(&one.name_any())),
            Err(error) => {
                // A server that is away is waited for: it takes no statuses either.
                self.refusals = self.refusals.saturating_add(u32::from(is_forbidden(&error)));
                debug!(what, error = causes(&error), "a watch for statuses' addresses failed, and is tried again");
                if !self.complete && self.refusals >= REFUSALS_MAX {
                    let error = causes(&error);
                    warn!(
                        what,
                        error, "cannot be read for statuses' addresses; the role lacks `list` and `watch` of them"
                    );
                    self.complete = true;
                }
            }
        }
    }
}

/// An agent's pod.
#[derive(Debug, PartialEq)]
struct Agent {
    node: String,
    host_ips: Vec<String>,
    is_ready: bool,
}

impl Agent {
    fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let ready = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let is_ready = ready.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
        let all = status.and_then(|status| status.host_ips.as_ref()).into_iter().flatten();
        let mut host_ips: Vec<String> = all.map(|one| one.ip.clone()).collect();
        if host_ips.is_empty() {
            host_ips.extend(status.and_then(|status| status.host_ip.clone()));
        }
        Self {
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            host_ips,
            is_ready: is_ready && pod.metadata.deletion_timestamp.is_none(),
        }
    }
}

/// A node's addresses for clients: those for the world, else those within.
pub(super) fn of_node(node: &Node) -> Vec<String> {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of = |kind: &str| -> Vec<String> {
        all.iter().filter(|one| one.type_ == kind).map(|one| one.address.clone()).collect()
    };
    let external = of("ExternalIP");
    if external.is_empty() { of("InternalIP") } else { external }
}

/// What is known of agents and their nodes.
#[derive(Debug, Default)]
struct Known {
    agents: Heard<Agent>,
    nodes: Heard<Vec<String>>,
    /// By node: when its agent was last ready, and the addresses that its pod names.
    served: BTreeMap<String, (MonoNs, Vec<String>)>,
    /// Since when it is known who there is, and which nodes' agents have not been ready since.
    known: Option<MonoNs>,
    awaited: BTreeSet<String>,
    is_told: bool,
}

impl Known {
    /// The addresses at this moment. Who has just come to lead does not know which agents were ready a moment ago: it says nothing
    /// before those that are not have had the time that they would have had.
    fn addresses(&mut self, now: MonoNs) -> Addresses {
        if !self.agents.complete || !self.nodes.complete {
            return None;
        }
        let stays = |since: MonoNs| u128::from(now.0.saturating_sub(since.0)) <= STAY.as_nanos();
        let is_early = !self.is_told && stays(*self.known.get_or_insert(now));
        for agent in self.agents.all.values() {
            if agent.is_ready {
                self.awaited.remove(&agent.node);
                self.served.insert(agent.node.clone(), (now, agent.host_ips.clone()));
            } else if !agent.node.is_empty() && !self.served.contains_key(&agent.node) {
                self.awaited.insert(agent.node.clone());
            }
        }
        self.served.retain(|_, (at, _)| stays(*at));
        if is_early && !self.awaited.is_empty() {
            return None;
        }
        self.is_told = true;
        let each = self.served.iter().flat_map(|(node, (_, host_ips))| {
            self.nodes.all.get(node).filter(|all| !all.is_empty()).unwrap_or(host_ips)
        });
        let sorted: BTreeSet<IpAddr> = each.filter_map(|text| text.parse().ok()).collect();
        let all = sorted.into_iter().take(ADDRESSES_MAX);
        Some(all.map(|one| ("IPAddress".to_owned(), one.to_string())).collect())
    }
}

/// Whose nodes they are.
#[derive(Debug)]
pub struct Agents {
    /// Where their pods are.
    pub namespace: String,
    /// The pods' labels.
    pub selector: String,
}

/// Says where clients reach all agents, for as long as we lead.
pub async fn follow(client: Client, agents: Agents, mut leads: watch::Receiver<bool>, told: watch::Sender<Addresses>) {
    while turned(&mut leads, true).await {
        tokio::select! {
            _ = turned(&mut leads, false) => {}
            () = look(&client, &agents, &told) => return,
        }
        told.send_replace(None);
    }
}

/// Waits until we lead, or no longer; `false`: nobody says so any more.
async fn turned(leads: &mut watch::Receiver<bool>, wanted: bool) -> bool {
    leads.wait_for(|leads| *leads == wanted).await.is_ok()
}

/// Until a watch ends, which none does by itself.
async fn look(client: &Client, Agents { namespace, selector }: &Agents, told: &watch::Sender<Addresses>) {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let mut pods = pin!(watcher(pods, watcher::Config::default().labels(selector)).default_backoff());
    let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default());
    let mut nodes = pin!(nodes.default_backoff());
    let (mut known, mut looks) = (Known::default(), interval(LOOK));
    loop {
        tokio::select! {
            event = pods.next() => match event {
                Some(event) => known.agents.hear("the agents' pods", event, Agent::of),
                None => return,
            },
            event = nodes.next() => match event {
                Some(event) => known.nodes.hear("nodes", event, of_node),
                None => return,
            },
            _ = looks.tick() => {}
        }
        let addresses = known.addresses(MonoNs::now());
        told.send_if_modified(|before| {
            let changed = *before != addresses;
            *before = addresses;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, ready: bool) -> Pod {
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name}, "spec": {"nodeName": node, "containers": []},
            "status": {"hostIP": "10.1.0.1", "hostIPs": [{"ip": "10.1.0.1"}], "conditions": [{"type": "Ready", "status": status}]},
        });
        serde_json::from_value(pod).unwrap()
    }

    fn node(name: &str, addresses: &[(&str, &str)]) -> Node {
        let addresses: Vec<_> = addresses.iter().map(|(kind, one)| json!({"type": kind, "address": one})).collect();
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"addresses": addresses}})).unwrap()
    }

    /// A cluster, and where it is reached so many seconds later.
    fn at(known: &mut Known, seconds: u64) -> Option<Vec<String>> {
        let all = known.addresses(MonoNs(seconds * 1_000_000_000))?;
        Some(all.iter().map(|(_, value)| value.clone()).collect())
    }

    fn hear(known: &mut Known, event: Event<Pod>) {
        known.agents.hear("", Ok(event), Agent::of);
    }

    fn cluster() -> Known {
        let mut known = Known::default();
        let nodes = [
            node("a", &[("Hostname", "a"), ("InternalIP", "10.0.0.10"), ("ExternalIP", "192.0.2.1")]),
            node("b", &[("InternalIP", "10.0.0.9"), ("InternalIP", "fd00::9")]),
        ];
        known.nodes.hear("", Ok(Event::Init), of_node);
        for node in nodes {
            known.nodes.hear("", Ok(Event::InitApply(node)), of_node);
        }
        known.nodes.hear("", Ok(Event::InitDone), of_node);
        known
    }

    #[test]
    fn all_nodes_with_a_ready_agent_are_there_in_one_order_once_it_is_known_which_there_are() {
        let mut known = cluster();
        hear(&mut known, Event::Init);
        for (name, node, ready) in [("1", "b", true), ("2", "a", true), ("3", "c", true), ("4", "d", false)] {
            hear(&mut known, Event::InitApply(pod(name, node, ready)));
        }
        assert_eq!(at(&mut known, 0), None);
        hear(&mut known, Event::InitDone);
        // `d` has as long to come as it would have had to go.
        assert_eq!((at(&mut known, 0), at(&mut known, 30)), (None, None));
        let all = ["10.0.0.9", "10.1.0.1", "192.0.2.1", "fd00::9"];
        assert_eq!(at(&mut known, 31).unwrap(), all);
        // Once it has been said, it is said on.
        hear(&mut known, Event::Apply(pod("5", "e", false)));
        // Of a node that nothing is known of, what its pod says.
        assert_eq!(at(&mut known, 32).unwrap(), all);
    }

    #[test]
    fn who_comes_to_lead_while_an_agent_is_replaced_does_not_leave_its_node_out() {
        let mut known = cluster();
        hear(&mut known, Event::Init);
        let mut leaving = pod("2", "b", true);
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        for pod in [pod("1", "a", true), leaving.clone()] {
            hear(&mut known, Event::InitApply(pod));
        }
        hear(&mut known, Event::InitDone);
        assert_eq!(at(&mut known, 0), None);
        hear(&mut known, Event::Delete(leaving));
        assert_eq!(at(&mut known, 5), None);
        hear(&mut known, Event::Apply(pod("3", "b", false)));
        assert_eq!(at(&mut known, 10), None);
        hear(&mut known, Event::Apply(pod("3", "b", true)));
        assert_eq!(at(&mut known, 15).unwrap(), ["10.0.0.9", "192.0.2.1", "fd00::9"]);
    }

    #[test]
    fn a_node_leaves_a_while_after_its_agent_and_not_for_an_update() {
        let mut known = cluster();
        for event in
            [Event::Init, Event::InitDone, Event::Apply(pod("1", "a", true)), Event::Apply(pod("2", "b", true))]
        {
            hear(&mut known, event);
        }
        let both = ["10.0.0.9", "192.0.2.1", "fd00::9"];
        assert_eq!(at(&mut known, 0).unwrap(), both);
        hear(&mut known, Event::Delete(pod("2", "b", true)));
        assert_eq!(at(&mut known, 20).unwrap(), both);
        hear(&mut known, Event::Apply(pod("3", "b", true)));
        assert_eq!(at(&mut known, 25).unwrap(), both);
        let mut leaving = pod("3", "b", true);
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        hear(&mut known, Event::Apply(leaving));
        assert_eq!(at(&mut known, 50).unwrap(), both);
        assert_eq!(at(&mut known, 56).unwrap(), ["192.0.2.1"]);
        hear(&mut known, Event::Apply(pod("1", "a", false)));
        assert_eq!(at(&mut known, 90).unwrap(), [""; 0]);
    }

    #[test]
    fn there_are_never_more_than_so_many_and_who_may_not_list_them_knows_of_none() {
        let mut known = cluster();
        hear(&mut known, Event::Init);
        for number in 0..150 {
            let mut pod = pod(&number.to_string(), &format!("n{number}"), true);
            pod.status.as_mut().unwrap().host_ips.as_mut().unwrap()[0].ip = format!("10.2.0.{number}");
            hear(&mut known, Event::InitApply(pod));
        }
        hear(&mut known, Event::InitDone);
        let all = at(&mut known, 0).unwrap();
        assert_eq!((all.len(), all[99].as_str()), (ADDRESSES_MAX, "10.2.0.99"));

        let mut known = cluster();
        let fail = |known: &mut Known, code| {
            let status = kube::core::Status { code, ..Default::default() };
            let error = watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()));
            known.agents.hear("", Err::<Event<Pod>, _>(error), Agent::of);
        };
        for _ in 0..=REFUSALS_MAX {
            fail(&mut known, 503);
        }
        for refused in 0..REFUSALS_MAX {
            assert_eq!(at(&mut known, 0), None, "{refused}");
            fail(&mut known, 403);
        }
        assert_eq!(at(&mut known, 0).unwrap(), [""; 0]);
    }
}
