use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{
    Edns, Header, HeaderCounts, Message, Metadata, OpCode, ResponseCode,
};
use hickory_server::proto::rr::rdata::{A, AAAA, SOA, SRV};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use proto_core::routing::{DnsLookup, DnsName, DnsRecords, TTL_SECONDS, ZONE};
use tokio::sync::watch;

use super::Zone;
use super::upstream::{Failure, Upstream};
use crate::control::Status;

/// The largest answer over UDP that is not split on its way (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;

/// Answers queries from the zone in force or from upstream.
pub(super) struct Handler {
    zone: Arc<Zone>,
    upstream: Upstream,
    /// For the serial of the zone, which is the applied position.
    status: watch::Receiver<Status>,
    /// Each answer starts with another instance.
    turn: AtomicUsize,
}

/// An answer before it is put on the wire.
struct Answer {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Answer {
    fn code(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    fn from_upstream(message: Message) -> Self {
        Self {
            code: message.metadata.response_code,
            authoritative: false,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }
}

impl Handler {
    pub(super) fn new(
        zone: Arc<Zone>,
        upstream: Upstream,
        status: watch::Receiver<Status>,
    ) -> Self {
        Self { zone, upstream, status, turn: AtomicUsize::new(0) }
    }

    async fn answer(&self, request: &Request) -> Answer {
        if request.metadata.op_code != OpCode::Query {
            return Answer::code(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return Answer::code(ResponseCode::FormErr);
        };
        let (query, caller) = (info.query, request.src().ip());
        if query.query_class() != DNSClass::IN {
            return Answer::code(ResponseCode::Refused);
        }
        let name = DnsName::of(&query.name().to_string());
        match self.zone.current() {
            Some(zone) => {
                let owner = query.original().name();
                let kind = query.query_type();
                match zone.lookup(&name, caller) {
                    DnsLookup::Records(records) => {
                        let apex = name == DnsName::Inside(String::new());
                        return self.records(owner, kind, records, apex);
                    }
                    DnsLookup::NoSuchName => return self.negative(ResponseCode::NXDomain),
                    DnsLookup::Outside => {}
                }
            }
            None if matches!(name, DnsName::Inside(_)) => {
                return Answer::code(ResponseCode::ServFail);
            }
            None => {}
        }
        match self.upstream.ask(request.as_slice()).await {
            Ok(message) => Answer::from_upstream(message),
            Err(Failure::Nobody) => Answer::code(ResponseCode::Refused),
            Err(Failure::Silent) => Answer::code(ResponseCode::ServFail),
        }
    }

    fn records(&self, owner: &Name, kind: RecordType, found: &DnsRecords, apex: bool) -> Answer {
        let wants = |other| kind == other || kind == RecordType::ANY;
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        for address in &found.addresses {
            if wants(kind_of(*address)) {
                answers.push(address_record(owner.clone(), *address));
            }
        }
        if wants(RecordType::SRV) {
            for srv in &found.services {
                let Ok(target) = Name::from_ascii(format!("{}.", srv.target)) else { continue };
                let data = RData::SRV(SRV::new(0, 0, srv.port, target.clone()));
                answers.push(Record::from_rdata(owner.clone(), TTL_SECONDS, data));
                additionals.push(address_record(target, srv.address));
            }
        }
        if apex && wants(RecordType::SOA) {
            answers.extend(self.soa());
        }
        if answers.is_empty() {
            return self.negative(ResponseCode::NoError);
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
        answers.rotate_left(first);
        Answer { authoritative: true, answers, additionals, ..Answer::code(ResponseCode::NoError) }
    }

    /// No such name, or none of this type; the zone's SOA says how long that may be remembered.
    fn negative(&self, code: ResponseCode) -> Answer {
        let authorities = self.soa().into_iter().collect();
        Answer { authoritative: true, authorities, ..Answer::code(code) }
    }

    fn soa(&self) -> Option<Record> {
        // Serial numbers wrap around; nobody transfers this zone.
        let serial = (self.status.borrow().projection.applied.0 & 0xffff_ffff) as u32;
        let zone = Name::from_ascii(format!("{ZONE}.")).ok()?;
        let mailbox = Name::from_ascii(format!("hostmaster.{ZONE}.")).ok()?;
        let soa = SOA::new(zone.clone(), mailbox, serial, 3600, 600, 86_400, TTL_SECONDS);
        Some(Record::from_rdata(zone, TTL_SECONDS, RData::SOA(soa)))
    }
}

fn kind_of(address: IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn address_record(owner: Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(owner, TTL_SECONDS, data)
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let answer = self.answer(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.authoritative;
        metadata.recursion_available = self.upstream.is_any();
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_PAYLOAD));
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(
            metadata,
            &answer.answers,
            &answer.authorities,
            std::iter::empty(),
            &answer.additionals,
        );
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "an answer was not sent");
                metadata.response_code = ResponseCode::ServFail;
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}
