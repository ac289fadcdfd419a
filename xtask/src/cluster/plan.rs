//! What a node consists of, as text: the command lines and configuration files of its components, the commands that prepare
//! its mounts and its network. Running them is `supervise`'s.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::credentials::{Credentials, User};
use super::place::{API_PORT, DNS, Node, PODS, Place, Record, SERVICES};
use super::supervise::{Component, Plan};

/// The interface of a node on the nodes' network. The first node's is a bridge, in which all cables end.
const LAN: &str = "lan";

/// What comes from outside into the node's namespace.
pub const CABLE: &str = "uplink";

/// Where containerd answers, in the node's own `/run`.
pub const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// What the kubelet sets in the kernel of the whole machine, with the values that it wants to see. It is shown a file that
/// has them already, so that it leaves the machine's alone.
const KERNEL: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Writes all files of a node and gives its plan.
///
/// # Errors
/// The system's.
pub fn write(place: &Place, record: &Record, node: &Node, programs: &Path, users: &Credentials) -> Result<Plan> {
    for name in ["cni", "logs", "kernel", "opt", "var/log", "var/lib", "var/lib.work"] {
        fs::create_dir_all(node.path(name))?;
    }
    for (name, value) in KERNEL {
        fs::write(node.path("kernel").join(name.replace('/', ".")), format!("{value}\n"))?;
    }
    // Pods that ask for the node's name server get none: the node knows none either.
    fs::write(node.path("resolv.conf"), "")?;
    fs::write(node.path("cni/10-pods.conflist"), cni(node))?;
    fs::write(node.path("containerd.toml"), containerd(node))?;
    fs::write(node.path("kubelet.yaml"), kubelet(node))?;
    fs::write(node.path("kube-proxy.yaml"), kube_proxy(node, &users.kubeconfig(User::Proxy)))?;
    let mut components = Vec::new();
    if node.leads() {
        components.extend(control_plane(place, node, programs, users));
    }
    components.extend(node_components(record, node, programs, users));
    Ok(Plan {
        prepare: prepare(node),
        connect: connect(place, record, node),
        cable: CABLE.to_owned(),
        components,
        logs: node.path("logs"),
    })
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Mounts over what the components share with the machine otherwise, and which cannot be told to be elsewhere.
fn prepare(node: &Node) -> Vec<Vec<String>> {
    let mut commands = vec![
        words("mount -t tmpfs -o mode=755 tmpfs /run"),
        words(&format!("hostname {}", node.name)),
        words("ip link set lo up"),
    ];
    let bind = |from: PathBuf, to: &str| {
        vec!["mount".to_owned(), "--bind".to_owned(), from.display().to_string(), to.to_owned()]
    };
    commands.push(bind(node.path("var/log"), "/var/log"));
    // Nor does the node ask the host's name server.
    commands.push(bind(node.path("resolv.conf"), "/etc/resolv.conf"));
    // The kubelet and the CNI plugins write below /var/lib whatever they are told: it goes to the node's own layer.
    let layers = format!(
        "lowerdir=/var/lib,upperdir={},workdir={}",
        node.path("var/lib").display(),
        node.path("var/lib.work").display()
    );
    commands.push(["mount", "-t", "overlay", "-o", &layers, "overlay", "/var/lib"].map(str::to_owned).into());
    for (name, _) in KERNEL {
        commands.push(bind(node.path("kernel").join(name.replace('/', ".")), &format!("/proc/sys/{name}")));
    }
    commands
}

/// The node's end of the cable, its routes, and what the kernel must allow to forward for pods.
fn connect(place: &Place, record: &Record, node: &Node) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    if node.leads() {
        commands.push(words(&format!("ip link add {LAN} type bridge")));
        commands.push(words(&format!("ip link set {CABLE} master {LAN}")));
        commands.push(words(&format!("ip link set {CABLE} up")));
    } else {
        commands.push(words(&format!("ip link set {CABLE} name {LAN}")));
    }
    commands.push(words(&format!("ip address add {}/24 dev {LAN}", node.address)));
    commands.push(words(&format!("ip link set {LAN} up")));
    // Components that look for the machine's address ask for the default route. It leads nowhere: nothing is to leave.
    commands.push(words(&format!("ip route add default dev {LAN}")));
    for other in place.nodes(record).iter().filter(|other| other.number != node.number) {
        commands.push(words(&format!("ip route add {} via {}", other.pods(), other.address)));
    }
    commands.push(words("sysctl -q -w net.ipv4.ip_forward=1"));
    commands
}

fn component(name: &str, command: Vec<String>) -> Component {
    Component { name: name.to_owned(), command, environment: BTreeMap::new(), after: None, after_file: None }
}

fn control_plane(place: &Place, node: &Node, programs: &Path, users: &Credentials) -> Vec<Component> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let show = |path: PathBuf| path.display().to_string();
    let program = |name: &str| show(programs.join(name));
    let etcd = words(&format!(
        "etcd --data-dir {} --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
         --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
         --initial-cluster default=http://127.0.0.1:2380",
        show(place.path("etcd"))
    ));
    let api = words(&format!(
        "{} --etcd-servers=http://127.0.0.1:2379 --secure-port={API_PORT} --advertise-address={} --cert-dir={} \
         --service-account-key-file={} --service-account-signing-key-file={} \
         --service-account-issuer=https://kubernetes.default.svc --token-auth-file={} \
         --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
         --service-cluster-ip-range={SERVICES} --allow-privileged=true \
         --kubelet-preferred-address-types=InternalIP",
        program("kube-apiserver"),
        node.address,
        show(users.directory()),
        show(users.public_key()),
        show(users.private_key()),
        show(users.tokens()),
    ));
    let manager = words(&format!(
        "{} --kubeconfig={} --service-account-private-key-file={} --root-ca-file={} \
         --use-service-account-credentials=true --leader-elect=false --bind-address=127.0.0.1",
        program("kube-controller-manager"),
        show(users.kubeconfig(User::ControllerManager)),
        show(users.private_key()),
        show(users.authority()),
    ));
    let scheduler = words(&format!(
        "{} --kubeconfig={} --leader-elect=false --bind-address=127.0.0.1",
        program("kube-scheduler"),
        show(users.kubeconfig(User::Scheduler)),
    ));
    vec![
        component("etcd", etcd),
        Component { after: Some(local(2379)), ..component("kube-apiserver", api) },
        Component { after: Some(local(API_PORT)), ..component("kube-controller-manager", manager) },
        Component { after: Some(local(API_PORT)), ..component("kube-scheduler", scheduler) },
    ]
}

fn node_components(record: &Record, node: &Node, programs: &Path, users: &Credentials) -> Vec<Component> {
    let show = |path: PathBuf| path.display().to_string();
    let api = Some(SocketAddr::from((record.node(1), API_PORT)));
    let kubelet = words(&format!(
        "{} --config={} --kubeconfig={} --hostname-override={} --node-ip={}",
        show(programs.join("kubelet")),
        show(node.path("kubelet.yaml")),
        show(users.kubeconfig(User::Node(node.number))),
        node.name,
        node.address,
    ));
    let proxy =
        words(&format!("{} --config={}", show(programs.join("kube-proxy")), show(node.path("kube-proxy.yaml"))));
    vec![
        component("containerd", words(&format!("containerd --config {}", show(node.path("containerd.toml"))))),
        Component { after: api, after_file: Some(CONTAINERD.into()), ..component("kubelet", kubelet) },
        Component { after: api, ..component("kube-proxy", proxy) },
    ]
}

fn containerd(node: &Node) -> String {
    format!(
        r#"version = 2
root = "{root}"
state = "/run/containerd"
# Want kernel modules or programs that are of no use here.
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE no process can be made less likely to be killed than its parent.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
"#,
        root = node.path("containerd").display(),
        opt = node.path("opt").display(),
        pause = super::image::PAUSE,
        cni = node.path("cni").display(),
    )
}

fn cni(node: &Node) -> String {
    serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni",
                    "ranges": [[{"subnet": node.pods()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
    .to_string()
}

fn kubelet(node: &Node) -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
# Machines with the first version of cgroups are welcome.
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: {cgroup}
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix://{CONTAINERD}
clusterDNS: [{DNS}]
clusterDomain: cluster.local
resolvConf: {resolv}
# Only the nodes' own network reaches it.
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
# The machine's disk is not this node's to judge, and no registry would give an image back.
evictionHard: {{memory.available: 50Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}}
imageGCHighThresholdPercent: 100
# What is mounted from ConfigMaps is looked at this often.
syncFrequency: 5s
failSwapOn: false
oomScoreAdj: 0
volumePluginDir: {plugins}
"#,
        cgroup = node.cgroup,
        resolv = node.path("resolv.conf").display(),
        plugins = node.path("opt/volumes").display(),
    )
}

fn kube_proxy(node: &Node, kubeconfig: &Path) -> String {
    format!(
        r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: {name}
clusterCIDR: {PODS}
clientConnection: {{kubeconfig: {kubeconfig}}}
# The limits of connection tracking are the whole machine's.
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"#,
        name = node.name,
        kubeconfig = kubeconfig.display(),
    )
}

/// Writes a plan where the node's first process finds it.
///
/// # Errors
/// The system's.
pub fn keep(node: &Node, plan: &Plan) -> Result<PathBuf> {
    let path = node.path("plan.json");
    fs::write(&path, serde_json::to_vec_pretty(plan)?).with_context(|| path.display().to_string())?;
    Ok(path)
}
