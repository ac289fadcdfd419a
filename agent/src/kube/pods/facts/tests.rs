//! What is kept of pods as the API sends them.

use serde_json::json;

use super::*;
use crate::export::testing::texts as told;

/// The agent's clock began at this time.
const BOOT_S: i64 = 1_764_010_800; // 2025-11-24T19:00:00Z
const WALL: WallOffset = WallOffset(BOOT_S * 1_000_000_000);

fn s(seconds: u64) -> MonoNs {
    MonoNs(seconds * 1_000_000_000)
}

fn read(object: serde_json::Value) -> Facts {
    let allowed =
        Allowed { labels: vec!["app".to_owned(), "team.example/*".to_owned()], annotations: vec!["note".to_owned()] };
    Reader::new(allowed).read(&serde_json::from_value(object).unwrap(), WALL).unwrap()
}

fn pod() -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "shop-5d9f7c8b6d-x2v9k", "namespace": "store", "uid": "a-b", "resourceVersion": "117",
            "creationTimestamp": "2025-11-24T19:00:05Z",
            "labels": {"app": "shop", "pod-template-hash": "5d9f7c8b6d", "team.example/name": "blue", "other": "x"},
            "annotations": {"note": "n", "other": "y"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "no", "uid": "1"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop-5d9f7c8b6d", "uid": "2", "controller": true},
            ],
            "managedFields": [{"manager": "kubelet"}],
        },
        "spec": {
            "nodeName": "node-1",
            "containers": [
                {"name": "web", "image": "i", "ports": [{"containerPort": 8080, "hostPort": 80}, {"containerPort": 53, "protocol": "UDP"}]},
                {"name": "metrics", "ports": [{"containerPort": 9100, "hostPort": 9100, "hostIP": "192.0.2.9"}]},
            ],
            "initContainers": [{"name": "setup"}, {"name": "mesh", "restartPolicy": "Always"}],
        },
        "status": {
            "phase": "Running", "startTime": "2025-11-24T19:00:10Z",
            "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
            "hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}],
            "containerStatuses": [
                {"name": "web", "state": {"running": {"startedAt": "2025-11-24T19:00:20Z"}}},
                {"name": "metrics", "state": {"running": {"startedAt": "2025-11-24T19:00:15Z"}}},
            ],
        },
    })
}

fn place(ip: &str, port: u16) -> Place {
    Place { ip: ip.parse().unwrap(), port }
}

#[test]
fn a_pod_is_told_by_its_names_its_workload_and_what_is_allowed() {
    let facts = read(pod());
    assert_eq!(
        told(&facts.pod.attributes),
        [
            "peer.k8s.namespace.name=store",
            "peer.k8s.pod.name=shop-5d9f7c8b6d-x2v9k",
            "peer.k8s.pod.uid=a-b",
            "peer.k8s.node.name=node-1",
            "peer.k8s.replicaset.name=shop-5d9f7c8b6d",
            "peer.k8s.deployment.name=shop",
            "peer.k8s.pod.label.app=shop",
            "peer.k8s.pod.label.team.example/name=blue",
            "peer.k8s.pod.annotation.note=n",
        ]
    );
    let called = ["service.peer.name=shop", "service.peer.namespace=store", "peer.service=shop"];
    assert_eq!(told(&facts.pod.called), called);
    let containers = facts.pod.containers.iter().map(|c| (c.ports.to_vec(), c.host_ports.to_vec(), told(&c.name)));
    let named = |name: &str| vec![format!("peer.k8s.container.name={name}")];
    let want = [
        (vec![8080], vec![80], named("web")),
        (vec![9100], vec![9100], named("metrics")),
        (vec![], vec![], named("mesh")),
    ];
    assert_eq!(containers.collect::<Vec<_>>(), want);
    let mut in_nodes_network = pod();
    in_nodes_network["spec"]["hostNetwork"] = true.into();
    let first = read(in_nodes_network).pod.containers[0].clone();
    assert_eq!(first.host_ports, first.ports);
    assert_eq!((&*facts.uid, facts.version, facts.is_over), ("a-b", 117, false));
}

#[test]
fn its_addresses_are_its_own_and_the_ports_that_it_has_on_the_node() {
    let own = [place("10.0.0.7", 0), place("192.0.2.1", 80), place("fd00::7", 0)];
    assert_eq!(read(pod()).places, own);
    let mut in_nodes_network = pod();
    in_nodes_network["spec"]["hostNetwork"] = true.into();
    for key in ["podIP", "hostIP"] {
        in_nodes_network["status"][key] = "::ffff:192.0.2.1".into();
    }
    in_nodes_network["status"]["podIPs"] = json!([]);
    // The port that is bound to another address is not on this one.
    assert_eq!(read(in_nodes_network).places, [place("192.0.2.1", 8080)]);
    let mut pending = pod();
    pending["status"] = json!({"phase": "Pending", "hostIP": "192.0.2.1"});
    assert_eq!(read(pending).places, []);
}

#[test]
fn what_is_not_certain_of_a_time_is_not_counted() {
    let facts = read(pod());
    // Seconds are rounded down, and clocks differ.
    assert_eq!((facts.since, facts.until, facts.moved), (Some(s(17)), None, None));
    let mut ending = pod();
    ending["metadata"]["deletionTimestamp"] = "2025-11-24T19:01:30Z".into();
    ending["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    assert_eq!(read(ending.clone()).until, Some(s(59)));
    ending["metadata"]["deletionGracePeriodSeconds"] = i64::MAX.into();
    assert_eq!(read(ending).until, Some(s(0)));
    let mut over = pod();
    over["status"]["phase"] = "Succeeded".into();
    let done = |at: &str| json!({"state": {"terminated": {"finishedAt": at}}});
    over["status"]["containerStatuses"] = json!([done("2025-11-24T19:02:00Z"), done("2025-11-24T19:01:00Z")]);
    let facts = read(over);
    assert!(facts.is_over);
    assert_eq!((facts.since, facts.until), (None, Some(s(119))));
    let mut again = pod();
    again["status"]["containerStatuses"][0]["lastState"] =
        json!({"terminated": {"finishedAt": "2025-11-24T19:00:18Z"}});
    assert_eq!(read(again).moved, Some(s(17)));
}

#[test]
fn workloads_are_found_by_owners_and_names() {
    let owned = |kind: &str, name: &str, hash: &str| {
        let mut pod = pod();
        let owner = json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "2", "controller": true});
        pod["metadata"]["ownerReferences"] = json!([owner]);
        pod["metadata"]["labels"] = json!({"pod-template-hash": hash});
        pod["metadata"]["annotations"] = json!({});
        let pod = read(pod).pod;
        let workloads = told(&pod.attributes).split_off(4);
        let called = told(&pod.called).swap_remove(0);
        (workloads.join(" ").replace("peer.k8s.", ""), called.replace("service.peer.name=", ""))
    };
    let pod = "shop-5d9f7c8b6d-x2v9k";
    for (kind, name, hash, workloads, called) in [
        ("ReplicaSet", "a-1", "1", "replicaset.name=a-1 deployment.name=a", "a"),
        ("ReplicaSet", "a-1", "2", "replicaset.name=a-1", "a-1"),
        ("ReplicaSet", "-1", "1", "replicaset.name=-1", "-1"),
        ("Job", "clean-29400100", "", "job.name=clean-29400100 cronjob.name=clean", "clean"),
        ("Job", "clean-29400180", "", "job.name=clean-29400180 cronjob.name=clean", "clean"),
        // Due after the pod was made, or days before; a date, an hour, and what no controller writes.
        ("Job", "clean-29400182", "", "job.name=clean-29400182", "clean-29400182"),
        ("Job", "clean-29398000", "", "job.name=clean-29398000", "clean-29398000"),
        ("Job", "clean-20251124", "", "job.name=clean-20251124", "clean-20251124"),
        ("Job", "clean-2025112419", "", "job.name=clean-2025112419", "clean-2025112419"),
        ("Job", "clean-029400180", "", "job.name=clean-029400180", "clean-029400180"),
        ("Job", "clean-99999999999999999999", "", "job.name=clean-99999999999999999999", "clean-99999999999999999999"),
        ("Job", "-29400180", "", "job.name=-29400180", "-29400180"),
        ("StatefulSet", "db", "", "statefulset.name=db", "db"),
        ("DaemonSet", "logs", "", "daemonset.name=logs", "logs"),
        ("Rollout", "x", "", "", pod),
    ] {
        assert_eq!(owned(kind, name, hash), (workloads.to_owned(), called.to_owned()), "{kind} {name}");
    }
    // Without the time of its making nothing is certain.
    let mut undated = self::pod();
    undated["metadata"]["creationTimestamp"] = json!(null);
    let owner = json!({"apiVersion": "v1", "kind": "Job", "name": "clean-29400180", "uid": "2", "controller": true});
    undated["metadata"]["ownerReferences"] = json!([owner]);
    assert_eq!(told(&read(undated).pod.called)[0], "service.peer.name=clean-29400180");
    let mut named = self::pod();
    named["metadata"]["annotations"] = json!({"resource.opentelemetry.io/service.name": "storefront"});
    assert_eq!(told(&read(named).pod.called)[0], "service.peer.name=storefront");
}

#[test]
fn what_no_server_sends_is_no_pod_and_no_panic() {
    for object in [
        json!({}),
        json!({"metadata": {"name": "x"}}),
        json!({"metadata": {"uid": ""}, "spec": {}, "status": {}}),
        json!({"metadata": {"uid": "u"}, "status": {"podIP": "no address", "hostIP": ""}}),
    ] {
        let read = Reader::default().read(&serde_json::from_value(object).unwrap(), WallOffset(i64::MAX));
        assert!(read.is_none_or(|facts| facts.places.is_empty()));
    }
}
