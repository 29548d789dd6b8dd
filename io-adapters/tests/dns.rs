//! The DNS server, asked over real sockets on loopback.

mod sidecars;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use io_adapters::control;
use io_adapters::dns::{DnsConfig, DnsServer};
use proto_core::store::FollowEvent;
use sidecars::{Store, applied, service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

struct Running {
    address: SocketAddr,
    control: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _directory: Option<tempfile::TempDir>,
}

impl Running {
    async fn start(follow: mpsc::Receiver<FollowEvent>, upstream: Vec<SocketAddr>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut running = Self::start_in(directory.path(), follow, upstream).await;
        running._directory = Some(directory);
        running
    }

    async fn start_in(
        directory: &Path,
        follow: mpsc::Receiver<FollowEvent>,
        upstream: Vec<SocketAddr>,
    ) -> Self {
        let control = directory.join("dns.sock");
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        let mut config = DnsConfig::new(listen, control.clone(), directory.join("dns.json"));
        config.upstream = upstream;
        config.upstream_timeout = "200ms".parse().unwrap();
        let server = DnsServer::bind(config).await.unwrap();
        let address = server.addresses()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(async move { server.run(follow, shutdown).await.unwrap() });
        Self { address, control, stop, task, _directory: None }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_from(from: &str, server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind(from).await.unwrap();
    socket.send_to(&query(name, kind).to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 4096];
    let receive = socket.recv(&mut buffer);
    let length = tokio::time::timeout(Duration::from_secs(5), receive).await.expect("an answer");
    let answer = Message::from_vec(&buffer[..length.unwrap()]).unwrap();
    assert_eq!(answer.metadata.id, 4711);
    answer
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    ask_from("127.0.0.1:0", server, name, kind).await
}

async fn ask_tcp(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = query(name, kind).to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn data(records: &[Record]) -> Vec<String> {
    let mut all: Vec<String> = records.iter().map(|record| record.data.to_string()).collect();
    all.sort();
    all
}

/// A server with `blog/web` at an IPv4 and an IPv6 address, `blog/halted` stopped, and `shop/web`.
async fn with_services(upstream: Vec<SocketAddr>) -> (Running, Store) {
    let (mut store, follow) = Store::new();
    let dns = Running::start(follow, upstream).await;
    let addresses = ["127.0.0.11:80".parse().unwrap(), "[fd00::2]:8080".parse().unwrap()];
    let mut halted = service(1, None, &addresses);
    halted.stopped = true;
    let services = vec![("web", service(1, None, &addresses)), ("halted", halted)];
    store.commit("blog", services).await;
    let shop = service(1, None, &["127.0.0.12:80".parse().unwrap()]);
    let head = store.commit("shop", vec![("web", shop)]).await;
    store.caught_up().await;
    applied(&dns.control, head).await;
    (dns, store)
}

#[tokio::test]
async fn services_have_addresses_and_ports_over_udp_and_tcp() {
    let (dns, _store) = with_services(Vec::new()).await;
    for (kind, want) in [(RecordType::A, "127.0.0.11"), (RecordType::AAAA, "fd00::2")] {
        for answer in [
            ask(dns.address, "Web.blog.ployz.internal.", kind).await,
            ask_tcp(dns.address, "web.blog.ployz.internal.", kind).await,
        ] {
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.metadata.authoritative);
            assert_eq!(data(&answer.answers), [want]);
            assert!((1..=5).contains(&answer.answers[0].ttl), "short-lived");
        }
    }
    let answer = ask(dns.address, "_http._tcp.web.blog.ployz.internal.", RecordType::SRV).await;
    let want = ["0 0 80 0.web.blog.ployz.internal.", "0 0 8080 1.web.blog.ployz.internal."];
    assert_eq!(data(&answer.answers), want);
    assert_eq!(data(&answer.additionals), ["127.0.0.11", "fd00::2"]);
    let answer = ask(dns.address, "1.web.blog.ployz.internal.", RecordType::AAAA).await;
    assert_eq!(data(&answer.answers), ["fd00::2"]);
    dns.stop().await;
}

#[tokio::test]
async fn no_such_name_and_no_data_are_told_apart() {
    let (dns, _store) = with_services(Vec::new()).await;
    for (name, kind, code) in [
        ("no.blog.ployz.internal.", RecordType::A, ResponseCode::NXDomain),
        ("web.no.ployz.internal.", RecordType::A, ResponseCode::NXDomain),
        ("web.blog.ployz.internal.", RecordType::TXT, ResponseCode::NoError),
        ("halted.blog.ployz.internal.", RecordType::A, ResponseCode::NoError),
        ("blog.ployz.internal.", RecordType::A, ResponseCode::NoError),
        ("0.web.blog.ployz.internal.", RecordType::AAAA, ResponseCode::NoError),
    ] {
        let answer = ask(dns.address, name, kind).await;
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert!(answer.metadata.authoritative && answer.answers.is_empty(), "{name} {kind}");
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA, "{name} {kind}");
    }
    dns.stop().await;
}

#[tokio::test]
async fn a_bare_name_is_a_service_of_the_namespace_that_asks() {
    let (dns, _store) = with_services(Vec::new()).await;
    for name in ["web.", "web.ployz.internal."] {
        for (from, want) in [("127.0.0.11:0", "127.0.0.11"), ("127.0.0.12:0", "127.0.0.12")] {
            let answer = ask_from(from, dns.address, name, RecordType::A).await;
            assert_eq!(data(&answer.answers), [want], "{name} from {from}");
        }
    }
    let stranger = ask(dns.address, "web.ployz.internal.", RecordType::A).await;
    assert_eq!(stranger.metadata.response_code, ResponseCode::NXDomain);
    dns.stop().await;
}

/// An upstream that answers every query with 192.0.2.1, over UDP only that it is too long if `truncate`.
async fn upstream(truncate: bool) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    let answer = |bytes: &[u8]| {
        let mut message = Message::from_vec(bytes).unwrap();
        message.metadata.message_type = MessageType::Response;
        let data = RData::A(A("192.0.2.1".parse().unwrap()));
        message.add_answer(Record::from_rdata(message.queries[0].name().clone(), 60, data));
        message
    };
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let mut message = answer(&buffer[..length]);
            if truncate {
                message = message.truncate();
            }
            // A forgery before the answer.
            let mut forged = message.clone();
            forged.metadata.id = forged.metadata.id.wrapping_add(1);
            forged.answers.clear();
            udp.send_to(&forged.to_vec().unwrap(), from).await.unwrap();
            udp.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let bytes = answer(&query).to_vec().unwrap();
            stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn other_names_come_from_upstream() {
    // The first one never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for truncate in [false, true] {
        let servers = vec![silent.local_addr().unwrap(), upstream(truncate).await];
        let (dns, _store) = with_services(servers).await;
        for name in ["example.com.", "single."] {
            let answer = ask(dns.address, name, RecordType::A).await;
            assert_eq!(data(&answer.answers), ["192.0.2.1"], "{name}");
            assert!(!answer.metadata.authoritative && answer.metadata.recursion_available);
        }
        dns.stop().await;
    }
    let (dns, _store) = with_services(vec![silent.local_addr().unwrap()]).await;
    let answer = ask(dns.address, "example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    dns.stop().await;
}

#[tokio::test]
async fn an_answer_too_long_for_udp_says_so_and_comes_whole_over_tcp() {
    let (dns, mut store) = with_services(Vec::new()).await;
    let addresses: Vec<SocketAddr> =
        (1..=200).map(|n| format!("10.1.0.{n}:80").parse().unwrap()).collect();
    let head = store.commit("big", vec![("web", service(1, None, &addresses))]).await;
    applied(&dns.control, head).await;
    assert!(ask(dns.address, "web.big.ployz.internal.", RecordType::A).await.metadata.truncation);
    let answer = ask_tcp(dns.address, "web.big.ployz.internal.", RecordType::A).await;
    assert_eq!(answer.answers.len(), 200);
    dns.stop().await;
}

#[tokio::test]
async fn the_state_survives_a_restart_and_before_one_there_is_no_no() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, follow) = Store::new();
    let dns = Running::start_in(directory.path(), follow, Vec::new()).await;
    let name = "web.shop.ployz.internal.";
    let answer = ask(dns.address, name, RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "not: no such name");
    let shop = service(1, None, &["10.0.0.1:80".parse().unwrap()]);
    let head = store.commit("shop", vec![("web", shop)]).await;
    store.caught_up().await;
    applied(&dns.control, head).await;
    dns.stop().await;

    let (store, follow) = Store::new();
    store.say(FollowEvent::Away { reason: "no responders".to_owned() }).await;
    let dns = Running::start_in(directory.path(), follow, Vec::new()).await;
    assert_eq!(data(&ask(dns.address, name, RecordType::A).await.answers), ["10.0.0.1"]);
    let status = control::status(&dns.control, Duration::from_secs(5)).await.unwrap();
    assert_eq!((status.role.as_str(), status.projection.applied), ("dns", head));
    assert!(status.projection.stale.is_some());
    dns.stop().await;
}

#[tokio::test]
async fn what_is_no_query_does_no_harm() {
    let (dns, _store) = with_services(Vec::new()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut packets = vec![vec![], vec![0; 5], vec![0xff; 600], vec![0; 12]];
    let good = query("web.blog.ployz.internal.", RecordType::A).to_vec().unwrap();
    packets.extend((0..good.len()).map(|length| good[..length].to_vec()));
    for packet in packets {
        socket.send_to(&packet, dns.address).await.unwrap();
    }
    let answer = ask(dns.address, "web.blog.ployz.internal.", RecordType::A).await;
    assert_eq!(data(&answer.answers), ["127.0.0.11"]);
    dns.stop().await;
}

#[tokio::test]
async fn a_bridge_that_is_not_there_yet_is_no_reason_to_stay_down_and_a_wrong_address_is() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // An address of documentation (RFC 5737), which no interface has.
    let nowhere: SocketAddr = "192.0.2.1:0".parse().unwrap();
    let mut config = DnsConfig::new(vec!["127.0.0.1:0".parse().unwrap()], at("s"), at("j"));
    config.bridge = Some(nowhere);
    let server = DnsServer::bind(config.clone()).await.unwrap();
    assert_eq!(server.addresses()[1].ip(), nowhere.ip());
    drop(server);
    config.listen.push(nowhere);
    let error = DnsServer::bind(config).await.unwrap_err().to_string();
    assert!(error.contains("192.0.2.1:0"), "{error}");
}
