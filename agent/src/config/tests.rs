//! The configuration from outside: files in, configuration or faults out; reloads; the registry over them.

mod faults;
mod middlewares;
mod reloads;
mod sections;

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::model::Config;
use super::{Fault, check};

/// The example of the reference page.
const LAB: &str = r#"
entryPoints:
  web: {address: ":8000"}
http:
  routers:
    hotrod: {rule: "Host(`hotrod.localhost`)", service: hotrod}
  services:
    hotrod: {loadBalancer: {servers: [{url: "http://127.0.0.1:8080"}]}}
tracing:
  serviceName: wayspan
  sampleRate: 1.0
  otlp: {grpc: {endpoint: "127.0.0.1:4317", insecure: true}}
api: {dashboard: true, address: "127.0.0.1:9000", jaegerQuery: "http://127.0.0.1:16686"}
"#;

/// Files in a directory of their own; the first given is the main one.
struct Files {
    root: TempDir,
}

impl Files {
    fn new(main: &str) -> Self {
        let files = Self { root: tempfile::tempdir().unwrap() };
        files.write("main.yaml", main);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn main(&self) -> PathBuf {
        self.path("main.yaml")
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn check(&self) -> Result<Config, Vec<Fault>> {
        check(&self.main())
    }

    /// Faults as lines, with the directory left out.
    fn lines(&self, faults: &[Fault]) -> Vec<String> {
        let root = format!("{}/", self.root.path().display());
        faults.iter().map(|fault| fault.to_string().replace(&root, "")).collect()
    }
}

pub(super) fn good(main: &str) -> Config {
    let files = Files::new(main);
    files.check().unwrap_or_else(|faults| panic!("{:#?}", files.lines(&faults)))
}
