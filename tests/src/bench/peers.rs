//! The proxies that the gateway is compared with, and what puts the load on all of them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::lab::HOST;

/// A proxy in front of the backend. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Peer {
    process: Child,
}

impl Peer {
    /// nginx on `port`, one worker, in front of `backend`.
    pub(super) fn nginx(directory: &Path, port: u16, backend: u16) -> anyhow::Result<Self> {
        let config = format!(
            "daemon off;\nuser root;\nworker_processes 1;\npid nginx.pid;\nerror_log nginx.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log off;\n  keepalive_requests 100000000;\n  \
             upstream backend {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 100000000; }}\n  \
             server {{\n    listen 127.0.0.1:{port};\n    location / {{\n      proxy_pass http://backend;\n      \
             proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n      \
             proxy_set_header X-Forwarded-For $remote_addr;\n      proxy_set_header X-Forwarded-Proto $scheme;\n      \
             proxy_set_header X-Forwarded-Host $host;\n      proxy_set_header X-Real-IP $remote_addr;\n    }}\n  }}\n}}\n"
        );
        let file = directory.join("nginx.conf");
        std::fs::write(&file, config)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(directory).arg("-e").arg(directory.join("nginx.log"));
        command.arg("-c").arg(file);
        Self::spawn(command)
    }

    /// haproxy on `port`, one thread, in front of `backend`.
    pub(super) fn haproxy(directory: &Path, port: u16, backend: u16) -> anyhow::Result<Self> {
        let config = format!(
            "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  \
             timeout server 60s\n  option forwardfor\n  http-reuse always\nfrontend front\n  bind 127.0.0.1:{port}\n  \
             http-request set-header X-Forwarded-Proto http\n  http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  \
             http-request set-header X-Real-IP %[src]\n  default_backend back\nbackend back\n  server one 127.0.0.1:{backend}\n"
        );
        let file = directory.join("haproxy.cfg");
        std::fs::write(&file, config)?;
        let mut command = Command::new("haproxy");
        command.arg("-q").arg("-db").arg("-f").arg(file);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let process = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| command.get_program().display().to_string())?;
        Ok(Self { process })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SIGTERM, so that nginx ends its worker.
        if let Some(pid) =
            i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if let Err(error) = self.process.wait() {
            eprintln!("a peer was left behind: {error}");
        }
    }
}

/// What wrk says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    /// Requests a second.
    pub(super) rate: f64,
    /// The 50th and the 99th percentile of the latency, in milliseconds.
    pub(super) median: f64,
    pub(super) p99: f64,
}

/// One thread, 64 connections that are kept, so long.
pub(super) async fn load(port: u16, time: Duration) -> anyhow::Result<Load> {
    let output = tokio::process::Command::new("wrk")
        .args(["-t1", "-c64", "--latency", &format!("-d{}s", time.as_secs())])
        .args(["-H", &format!("Host: {HOST}"), &format!("http://127.0.0.1:{port}/")])
        .output()
        .await
        .context("wrk")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {said}{}", String::from_utf8_lossy(&output.stderr));
    read(&said).with_context(|| said.into_owned())
}

fn read(said: &str) -> anyhow::Result<Load> {
    ensure!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "requests failed");
    let after = |name: &str| {
        let found = said.lines().find_map(|line| line.trim().strip_prefix(name));
        found.map(str::trim).with_context(|| format!("wrk says no {name}"))
    };
    Ok(Load {
        rate: after("Requests/sec:")?.parse()?,
        median: millis(after("50%")?)?,
        p99: millis(after("99%")?)?,
    })
}

fn millis(text: &str) -> anyhow::Result<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        other => anyhow::bail!("{other:?} is no unit of time"),
    };
    Ok(digits.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 3s test @ http://127.0.0.1:9100/\n  1 threads and 64 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     0.98ms  353.33us   9.36ms   88.99%\n    \
        Req/Sec    66.09k     2.29k   70.34k    73.33%\n  Latency Distribution\n     50%    0.93ms\n     75%    1.05ms\n     \
        90%    1.27ms\n     99%  980.00us\n  197260 requests in 3.00s, 31.79MB read\nRequests/sec:  65736.14\nTransfer/sec:     10.59MB\n";

    #[test]
    fn what_wrk_says_is_read_with_its_units() {
        let load = read(SAID).unwrap();
        assert_eq!(load, Load { rate: 65736.14, median: 0.93, p99: 0.98 });
    }

    #[test]
    fn a_run_with_failed_requests_is_none() {
        read(&format!("{SAID}  Non-2xx or 3xx responses: 1\n")).unwrap_err();
        read(&format!("{SAID}  Socket errors: connect 0, read 1, write 0, timeout 0\n"))
            .unwrap_err();
    }
}
