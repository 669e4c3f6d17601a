//! rumqttc's client for 5.0.

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{
    ConnAckProperties, ConnectProperties, Filter, LastWill, LastWillProperties, Packet,
    SubscribeProperties, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{self, QoS};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::mpsc;

use crate::{Answer, Client, Link, Message, Options, PACKET_BYTES_MAX, address};

pub use rumqttc::v5::mqttbytes::v5::LastWillProperties as WillProperties;
pub use rumqttc::v5::mqttbytes::v5::PublishProperties;

/// A connected 5.0 client.
pub struct V5 {
    client: AsyncClient,
    link: Link,
    /// What CONNACK told.
    pub told: ConnAckProperties,
}

/// What only a 5.0 client may be asked to connect with.
#[derive(Clone, Debug, Default)]
pub struct V5Options {
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub topic_alias_max: Option<u16>,
    pub max_packet_size: Option<u32>,
    pub will: Option<WillProperties>,
}

impl V5 {
    /// Connects with more than every version has.
    pub async fn connect_with(options: Options, five: V5Options) -> V5 {
        let (host, port) = address();
        let mut made = MqttOptions::new(options.client_id, host, port);
        made.set_clean_start(options.clean)
            .set_keep_alive(options.keep_alive)
            .set_manual_acks(options.never_acknowledge)
            .set_connect_properties(ConnectProperties {
                session_expiry_interval: five.session_expiry,
                receive_maximum: five.receive_maximum,
                max_packet_size: five.max_packet_size.or(Some(PACKET_BYTES_MAX)),
                topic_alias_max: five.topic_alias_max,
                request_response_info: None,
                request_problem_info: None,
                user_properties: Vec::new(),
                authentication_method: None,
                authentication_data: None,
            });
        if let Some(will) = options.will {
            let properties: Option<LastWillProperties> = five.will;
            made.set_last_will(LastWill::new(
                will.topic,
                will.payload,
                qos(will.qos),
                will.retain,
                properties,
            ));
        }

        let (client, mut events) = AsyncClient::new(made, 512);
        let (to_messages, messages) = mpsc::unbounded_channel();
        let (to_answers, answers) = mpsc::unbounded_channel();
        let (to_told, mut told) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let answer = match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(p))) => {
                        let _ = to_messages.send(Message {
                            topic: String::from_utf8(p.topic.to_vec()).expect("UTF-8"),
                            payload: p.payload.to_vec(),
                            qos: p.qos as u8,
                            retain: p.retain,
                            dup: p.dup,
                            pkid: p.pkid,
                            properties: p.properties.unwrap_or_default(),
                        });
                        continue;
                    }
                    Ok(Event::Incoming(Packet::ConnAck(c))) => {
                        let _ = to_told.send(c.properties);
                        Answer::Connected { session_present: c.session_present }
                    }
                    Ok(Event::Incoming(Packet::SubAck(s))) => {
                        Answer::Subscribed(s.return_codes.into_iter().map(code).collect())
                    }
                    Ok(Event::Incoming(Packet::UnsubAck(u))) => Answer::Unsubscribed(
                        u.reasons.iter().map(|reason| format!("{reason:?}")).collect(),
                    ),
                    Ok(Event::Incoming(Packet::PubAck(p))) => {
                        Answer::Published(format!("{:?}", p.reason))
                    }
                    Ok(Event::Incoming(Packet::PubComp(p))) => {
                        Answer::Published(format!("{:?}", p.reason))
                    }
                    Ok(Event::Outgoing(Outgoing::Publish(0))) => {
                        Answer::Published("Success".to_owned())
                    }
                    Ok(_) => continue,
                    Err(error) => {
                        let _ = to_answers.send(Answer::Closed(format!("{error:?}")));
                        return;
                    }
                };
                let _ = to_answers.send(answer);
            }
        });
        let link = Link::open(messages, answers, task).await;
        let told = told.try_recv().expect("sent before the answer");
        V5 { client, link, told: told.unwrap_or_else(nothing) }
    }

    /// Publishes with properties and gives the reason of the acknowledgement.
    pub async fn publish_with(
        &mut self,
        topic: &str,
        payload: &[u8],
        level: u8,
        retain: bool,
        properties: PublishProperties,
    ) -> String {
        self.client
            .publish_with_properties(topic, qos(level), retain, payload.to_vec(), properties)
            .await
            .expect("queued");
        self.published().await
    }

    /// Subscribes with options and, if not 0, an identifier.
    pub async fn subscribe_with(&mut self, filter: Filter, identifier: usize) -> Vec<u8> {
        if identifier == 0 {
            self.client.subscribe_many([filter]).await.expect("queued");
        } else {
            let properties =
                SubscribeProperties { id: Some(identifier), user_properties: Vec::new() };
            self.client.subscribe_many_with_properties([filter], properties).await.expect("queued");
        }
        match self.link.answer().await {
            Answer::Subscribed(codes) => codes,
            other => panic!("{other:?} instead of SUBACK"),
        }
    }
}

impl Client for V5 {
    async fn connect(options: Options) -> V5 {
        let session_expiry = (!options.clean).then_some(300);
        V5::connect_with(options, V5Options { session_expiry, ..V5Options::default() }).await
    }

    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    async fn send_subscribe(&self, filters: &[(&str, u8)]) {
        let filters = filters.iter().map(|(filter, level)| Filter::new(*filter, qos(*level)));
        self.client.subscribe_many(filters).await.expect("queued");
    }

    async fn send_unsubscribe(&self, filter: &str) {
        self.client.unsubscribe(filter).await.expect("queued");
    }

    async fn send_publish(&self, topic: &str, payload: &[u8], level: u8, retain: bool) {
        self.client.publish(topic, qos(level), retain, payload.to_vec()).await.expect("queued");
    }

    async fn send_disconnect(&self) {
        self.client.disconnect().await.expect("queued");
    }
}

fn qos(level: u8) -> QoS {
    mqttbytes::qos(level).expect("0, 1 or 2")
}

fn code(reason: SubscribeReasonCode) -> u8 {
    match reason {
        SubscribeReasonCode::Success(granted) => granted as u8,
        _ => 0x80,
    }
}

fn nothing() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
