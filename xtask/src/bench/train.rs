//! The load under which an instrumented binary counts what it does, before it is built for good: mostly what a node sees
//! most, and some of everything else, since what never ran is taken for cold.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::contenders::{self, Site};
use crate::progress;

/// Runs the `wayspan` of that directory, untraced, traced, and traced with what probes it is allowed, for some seconds each.
pub(crate) fn run(scratch: &Path, bin: &Path) -> Result<()> {
    std::fs::create_dir_all(scratch)?;
    let site = Site::start(scratch, bin).context("starting the upstream and the span receiver")?;
    site.upstream.put("large.bin", &vec![b'x'; 256 * 1024])?;
    let script = scratch.join("train.lua");
    std::fs::write(&script, REQUESTS)?;
    for contender in contenders::FOR_TRAINING {
        progress::step(&format!("a load on {}, instrumented", contender.name), || {
            let running = contender.start(&site)?;
            let output = Command::new("wrk")
                .args(["-t1", "-c64", "-d6s", "-s"])
                .arg(&script)
                .arg(format!("http://127.0.0.1:{}/index.html", running.port))
                .output()
                .context("wrk")?;
            ensure!(output.status.success(), "wrk: {}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        })?;
    }
    Ok(())
}

/// Of a hundred requests 80 are plain ones as a browser sends them; the rest is bodies, long and short connections, misses.
const REQUESTS: &str = r#"
local browser = {
  ["Host"] = "bench.localhost", ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0",
  ["Accept"] = "text/html,application/xhtml+xml", ["Accept-Language"] = "en", ["Accept-Encoding"] = "gzip",
}
local plain = { ["Host"] = "bench.localhost" }
local closing = { ["Host"] = "bench.localhost", ["Connection"] = "close" }
local traced = { ["Host"] = "bench.localhost",
  ["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ["tracestate"] = "a=b" }
local chunked = { ["Host"] = "bench.localhost", ["Transfer-Encoding"] = "chunked" }
local all = {
  [0] = function() return wrk.format("POST", "/index.html", plain, string.rep("b", 4096)) end,
  function() return wrk.format("GET", "/index.html", closing) end,
  function() return wrk.format("GET", "/large.bin", plain) end,
  function() return wrk.format("HEAD", "/index.html?x=1&y=2", browser) end,
  function() return wrk.format("GET", "/", { ["Host"] = "nobody.localhost" }) end,
  function() return wrk.format("GET", "/missing", browser) end,
  function() return wrk.format("GET", "/index.html", traced) end,
  function() return wrk.format("POST", "/index.html", chunked) .. "5\r\nhello\r\n0\r\n\r\n" end,
}
local count = 0
request = function()
  count = count + 1
  if count % 5 == 0 then return all[(count / 5) % 8]() end
  if count % 2 == 0 then return wrk.format("GET", "/index.html", browser) end
  return wrk.format("GET", "/index.html", plain)
end
"#;
