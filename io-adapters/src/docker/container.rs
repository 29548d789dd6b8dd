use std::collections::HashMap;
use std::net::IpAddr;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig,
    NetworkingConfig, PortBinding, RestartPolicy as DockerRestart, RestartPolicyNameEnum,
};
use proto_core::runtime::{InstanceSpec, Network, RestartPolicy};

use super::Docker;
use super::error::{Answer, Trouble, other};

pub(super) const CLUSTER: &str = "ployz.cluster";
pub(super) const INSTANCE: &str = "ployz.instance";
pub(super) const NAMESPACE: &str = "ployz.namespace";
pub(super) const SERVICE: &str = "ployz.service";
pub(super) const SLOT: &str = "ployz.slot";
pub(super) const OPERATION: &str = "ployz.operation";
pub(super) const CONFIG_HASH: &str = "ployz.config-hash";
pub(super) const SPEC: &str = "ployz.spec";

impl Docker {
    /// The container that an instance is.
    pub(super) fn container(&self, spec: &InstanceSpec) -> Answer<ContainerCreateBody> {
        let workload = &spec.workload;
        if workload.network != Network::Overlay && !workload.publish.is_empty() {
            return Err(Trouble::Failed(other(
                "ports are published from the cluster's network only; a service with network \"host\" or \"none\" has none to publish",
            )));
        }
        let mut bindings = HashMap::new();
        for (machine_port, name) in &workload.publish {
            let port = spec.ports.get(name).ok_or_else(|| {
                Trouble::Failed(other(&format!(
                    "port {name:?}, published as {machine_port}, is not among the ports of {}",
                    spec.service
                )))
            })?;
            let binding = PortBinding { host_ip: None, host_port: Some(machine_port.to_string()) };
            bindings
                .entry(format!("{port}/tcp"))
                .or_insert_with(|| Some(Vec::new()))
                .get_or_insert_default()
                .push(binding);
        }
        let overlay = workload.network == Network::Overlay;
        let network_mode = match workload.network {
            Network::Overlay => self.network_name(),
            Network::Host => "host".to_owned(),
            Network::None => "none".to_owned(),
        };
        let dns = self.config.dns.filter(|_| overlay);
        let grace = workload.stop_grace_period.as_millis().div_ceil(1000);
        Ok(ContainerCreateBody {
            image: Some(workload.image.clone()),
            entrypoint: some(&workload.entrypoint),
            cmd: some(&workload.command),
            env: Some(workload.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
            user: workload.user.clone(),
            exposed_ports: Some(bindings.keys().cloned().collect()),
            stop_timeout: i64::try_from(grace).ok(),
            labels: Some(self.labels(spec)),
            host_config: Some(HostConfig {
                network_mode: Some(network_mode),
                port_bindings: Some(bindings),
                restart_policy: Some(restart(workload.restart)),
                cap_add: some(&workload.cap_add),
                cap_drop: some(&workload.cap_drop),
                nano_cpus: workload.cpu_limit_millis.map(|millis| i64::from(millis) * 1_000_000),
                memory: workload
                    .memory_limit_bytes
                    .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
                dns: dns.map(|dns| vec![dns.to_string()]),
                dns_search: dns.map(|_| vec![format!("{}.ployz.internal", spec.namespace)]),
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: Some(HashMap::from([
                        ("max-size".to_owned(), "5m".to_owned()),
                        ("max-file".to_owned(), "2".to_owned()),
                    ])),
                }),
                ..HostConfig::default()
            }),
            networking_config: overlay.then(|| NetworkingConfig {
                endpoints_config: Some(HashMap::from([(
                    self.network_name(),
                    EndpointSettings {
                        ipam_config: Some(static_address(spec.address)),
                        ..EndpointSettings::default()
                    },
                )])),
            }),
            ..ContainerCreateBody::default()
        })
    }

    fn labels(&self, spec: &InstanceSpec) -> HashMap<String, String> {
        let mut labels: HashMap<_, _> =
            spec.workload.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        // Ours last: an operator's label can't stand in for one of them.
        labels.extend(
            [
                (CLUSTER, self.config.cluster.clone()),
                (INSTANCE, spec.name.to_string()),
                (NAMESPACE, spec.namespace.to_string()),
                (SERVICE, spec.service.to_string()),
                (SLOT, spec.slot.to_string()),
                (OPERATION, spec.operation.to_string()),
                (CONFIG_HASH, spec.config_hash().to_string()),
                (SPEC, serde_json::to_string(spec).expect("a spec is plain JSON")),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        labels
    }
}

fn some(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// `Always` is Docker's `unless-stopped`: a stopped instance stays stopped over restarts of the engine.
fn restart(policy: RestartPolicy) -> DockerRestart {
    let name = match policy {
        RestartPolicy::Always => RestartPolicyNameEnum::UNLESS_STOPPED,
        RestartPolicy::OnFailure => RestartPolicyNameEnum::ON_FAILURE,
        RestartPolicy::No => RestartPolicyNameEnum::NO,
    };
    DockerRestart { name: Some(name), maximum_retry_count: None }
}

fn static_address(address: IpAddr) -> EndpointIpamConfig {
    let text = Some(address.to_string());
    match address {
        IpAddr::V4(_) => EndpointIpamConfig { ipv4_address: text, ..Default::default() },
        IpAddr::V6(_) => EndpointIpamConfig { ipv6_address: text, ..Default::default() },
    }
}
