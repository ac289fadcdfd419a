//! Says what a cluster gives: whether the API server can be reached, and what of it the agent may read.
//! Printing it belongs to `wayspan doctor`.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;

use crate::kube::client::{self, ConnectError, Connection, causes};

/// For each question.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the agent reads, and what for: the chart's ClusterRole holds these and no more.
const READ: [(&str, &[&str], &str); 3] = [
    ("pods", &["get", "list", "watch"], "pods' names and owners on spans, and the agent's own"),
    ("nodes", &["list", "watch"], "the zone of a pod's node"),
    ("namespaces", &["get"], "the cluster's uid, which is kube-system's"),
];

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Report {
    /// Nothing says that there is a cluster.
    None {
        /// What would.
        why: String,
    },
    /// The API server does not answer.
    Unreachable {
        /// Why not.
        why: String,
    },
    /// It answers.
    Reached {
        /// Its version.
        version: String,
        /// What it lets the agent read.
        rights: Vec<Right>,
    },
}

/// One right.
#[derive(Debug, Clone, Serialize)]
pub struct Right {
    /// Of these objects.
    pub resource: &'static str,
    /// To do this.
    pub verb: &'static str,
    /// What it is for.
    pub tells: &'static str,
    /// Whether it is given; `None`: the server did not say.
    pub held: Option<bool>,
}

/// Asks the API server that [`client::connect`] finds.
pub async fn report() -> Report {
    let client = match client::connect(&Connection::default()).await {
        Ok(client) => client,
        Err(error @ ConnectError::Unknown(_)) => return Report::None { why: error.to_string() },
        Err(error) => return Report::Unreachable { why: causes(&error) },
    };
    let version = match tokio::time::timeout(PATIENCE, client.apiserver_version()).await {
        Ok(Ok(version)) => version.git_version,
        Ok(Err(error)) => return Report::Unreachable { why: causes(&error) },
        Err(_) => return Report::Unreachable { why: format!("no answer within {PATIENCE:?}") },
    };
    let mut rights = Vec::new();
    for (resource, verbs, tells) in READ {
        for verb in verbs {
            let held = tokio::time::timeout(PATIENCE, may(&client, resource, verb)).await.ok().flatten();
            rights.push(Right { resource, verb, tells, held });
        }
    }
    Report::Reached { version, rights }
}

async fn may(client: &Client, resource: &str, verb: &str) -> Option<bool> {
    let attributes = ResourceAttributes {
        resource: Some(resource.to_owned()),
        verb: Some(verb.to_owned()),
        name: (resource == "namespaces").then(|| "kube-system".to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), non_resource_attributes: None };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    Some(reviews.create(&PostParams::default(), &review).await.ok()?.status?.allowed)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None { why } => writeln!(f, "Kubernetes: none: {why}"),
            Self::Unreachable { why } => writeln!(f, "Kubernetes: the API server cannot be reached: {why}"),
            Self::Reached { version, rights } => {
                writeln!(f, "Kubernetes: {version}")?;
                for Right { resource, verb, tells, held } in rights {
                    let held = held.map_or("?", |held| if held { "yes" } else { "no" });
                    writeln!(f, "  {:<18} {held:<4} {tells}", format!("{verb} {resource}"))?;
                }
                if rights.iter().any(|right| right.held == Some(false)) {
                    writeln!(f, "  what is not allowed is left out of spans: allow it in the agent's ClusterRole")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_remedy() {
        let right = |verb, held| Right { resource: "pods", verb, tells: "names", held };
        let report = Report::Reached {
            version: "v1.35.0".to_owned(),
            rights: vec![right("list", Some(true)), right("watch", Some(false)), right("get", None)],
        };
        let lines: Vec<_> = report.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines[1..4].iter().map(|l| &l[21..24]).collect::<Vec<_>>(), ["yes", "no ", "?  "], "{lines:?}");
        assert!(lines[4].contains("ClusterRole"));
        assert_eq!(serde_json::to_value(&report).unwrap()["rights"][1]["held"], false);
        assert!(!Report::None { why: "x".to_owned() }.to_string().contains("ClusterRole"));
    }
}
