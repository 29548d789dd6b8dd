use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use proto_core::runtime::RuntimeError;

use super::container::CLUSTER;
use super::error::{Answer, Trouble, looking, other, status};
use super::{Docker, PROMPT};

/// An IPv4 subnet that a network of the engine has, of whatever cluster or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenSubnet {
    /// The network's name.
    pub network: String,
    /// As the engine writes it: `10.101.0.0/24`.
    pub subnet: String,
    /// The cluster whose network it is; `None` for a network that is not Ployz's.
    pub cluster: Option<String>,
}

impl Docker {
    /// The subnets that the engine's networks have.
    ///
    /// # Errors
    ///
    /// That the engine is away or refuses.
    pub async fn taken_subnets(&self) -> Result<Vec<TakenSubnet>, RuntimeError> {
        let networks = async {
            let client = self.client(PROMPT).await?;
            client.list_networks(None).await.map_err(looking)
        };
        let networks = networks.await.map_err(|trouble| match trouble {
            Trouble::Failed(error) => error,
            Trouble::Unknown => {
                RuntimeError::Unavailable { detail: "its networks were not told".to_owned() }
            }
        })?;
        let taken = networks.into_iter().flat_map(|network| {
            let name = network.name.unwrap_or_default();
            let cluster = network.labels.and_then(|mut labels| labels.remove(CLUSTER));
            let pools = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
            pools.into_iter().filter_map(|pool| pool.subnet).map(move |subnet| TakenSubnet {
                network: name.clone(),
                subnet,
                cluster: cluster.clone(),
            })
        });
        Ok(taken.collect())
    }

    /// The name of the network that instances with an address of their own join.
    #[must_use]
    pub fn network_name(&self) -> String {
        format!("ployz-{}", self.short)
    }

    /// Makes the cluster's network on this machine with `subnet` (for example `10.101.0.0/24`), if it is not there. Answers with
    /// the machine's own address in it, the first of the subnet.
    ///
    /// # Errors
    ///
    /// That the engine is away or refuses; that a network of this name is there with another subnet or is not ours: it is
    /// not touched. An answer that was lost is an error too, since to ask again is harmless.
    pub async fn ensure_network(&self, subnet: &str) -> Result<Ipv4Addr, RuntimeError> {
        let gateway = gateway(subnet)
            .ok_or_else(|| other(&format!("{subnet:?} is no IPv4 subnet such as 10.101.0.0/24")))?;
        match self.make_network(subnet, gateway).await {
            Ok(()) => Ok(gateway),
            Err(Trouble::Failed(error)) => Err(error),
            Err(Trouble::Unknown) => Err(RuntimeError::Unavailable {
                detail: format!("the answer about network {} was lost", self.network_name()),
            }),
        }
    }

    /// Removes the cluster's network. That there is none is success.
    ///
    /// # Errors
    ///
    /// That the engine is away, or that containers are still in the network.
    pub async fn remove_network(&self) -> Result<(), RuntimeError> {
        let removed = async {
            if self.network_subnet().await?.is_some() {
                self.client(PROMPT)
                    .await?
                    .remove_network(&self.network_name())
                    .await
                    .map_err(looking)?;
            }
            Ok(())
        };
        removed.await.map_err(|trouble| match trouble {
            Trouble::Failed(error) => error,
            Trouble::Unknown => RuntimeError::Unavailable {
                detail: format!("the answer about network {} was lost", self.network_name()),
            },
        })
    }

    async fn make_network(&self, subnet: &str, gateway: Ipv4Addr) -> Answer<()> {
        let name = self.network_name();
        match self.network_subnet().await? {
            Some(there) if there == subnet => return Ok(()),
            Some(there) => {
                return Err(Trouble::Failed(other(&format!(
                    "network {name} is there with subnet {there}, not {subnet}; remove it with `docker network rm {name}` once nothing runs in it"
                ))));
            }
            None => {}
        }
        let request = NetworkCreateRequest {
            name,
            driver: Some("bridge".to_owned()),
            ipam: Some(Ipam {
                driver: Some("default".to_owned()),
                config: Some(vec![IpamConfig {
                    subnet: Some(subnet.to_owned()),
                    gateway: Some(gateway.to_string()),
                    ..IpamConfig::default()
                }]),
                options: None,
            }),
            labels: Some(HashMap::from([(CLUSTER.to_owned(), self.config.cluster.clone())])),
            ..NetworkCreateRequest::default()
        };
        self.client(PROMPT).await?.create_network(request).await.map(drop).map_err(looking)
    }

    /// The subnet of the cluster's network, `None` if there is no such network.
    async fn network_subnet(&self) -> Answer<Option<String>> {
        let name = self.network_name();
        let network = match self.client(PROMPT).await?.inspect_network(&name, None).await {
            Ok(network) => network,
            Err(error) if status(&error) == Some(404) => return Ok(None),
            Err(error) => return Err(looking(error)),
        };
        let ours = network.labels.as_ref().and_then(|labels| labels.get(CLUSTER))
            == Some(&self.config.cluster);
        if !ours {
            let text = format!("network {name} is there and does not belong to this cluster");
            return Err(Trouble::Failed(other(&text)));
        }
        let subnet = network.ipam.and_then(|ipam| ipam.config?.into_iter().next()?.subnet);
        Ok(Some(subnet.unwrap_or_default()))
    }
}

/// The first address of a subnet.
fn gateway(subnet: &str) -> Option<Ipv4Addr> {
    let (base, bits) = subnet.split_once('/')?;
    let (base, bits) = (base.parse::<Ipv4Addr>().ok()?, bits.parse::<u32>().ok()?);
    let whole = (8..=30).contains(&bits) && base.to_bits() << bits == 0;
    whole.then(|| Ipv4Addr::from_bits(base.to_bits() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_the_first_address_of_its_subnet() {
        assert_eq!(gateway("10.101.7.0/24"), Some(Ipv4Addr::new(10, 101, 7, 1)));
        for bad in
            ["10.101.7.0", "10.101.7.1/24", "10.101.7.0/33", "fd00::/64", "x/24", "1.2.3.4/32"]
        {
            assert_eq!(gateway(bad), None, "{bad}");
        }
    }
}
