//! rumqttc's client for 3.1.1.

use rumqttc::{AsyncClient, Event, LastWill, MqttOptions, Outgoing, Packet, QoS};
use rumqttc::{SubscribeFilter, SubscribeReasonCode};
use tokio::sync::mpsc;

use crate::{Answer, Client, Link, Message, Options, PACKET_BYTES_MAX, PublishProperties, address};

/// A connected 3.1.1 client.
pub struct V4 {
    client: AsyncClient,
    link: Link,
}

impl Client for V4 {
    async fn connect(options: Options) -> V4 {
        let (host, port) = address();
        let mut made = MqttOptions::new(options.client_id, host, port);
        made.set_clean_session(options.clean)
            .set_keep_alive(options.keep_alive)
            .set_manual_acks(options.never_acknowledge)
            // 3.1.1 has no Receive Maximum to be told by; stay below any broker's.
            .set_inflight(16)
            .set_max_packet_size(PACKET_BYTES_MAX as usize, PACKET_BYTES_MAX as usize);
        if let Some(will) = options.will {
            made.set_last_will(LastWill::new(will.topic, will.payload, qos(will.qos), will.retain));
        }

        let (client, mut events) = AsyncClient::new(made, 512);
        let (to_messages, messages) = mpsc::unbounded_channel();
        let (to_answers, answers) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let answer = match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(p))) => {
                        let _ = to_messages.send(Message {
                            topic: p.topic,
                            payload: p.payload.to_vec(),
                            qos: p.qos as u8,
                            retain: p.retain,
                            dup: p.dup,
                            pkid: p.pkid,
                            properties: PublishProperties::default(),
                        });
                        continue;
                    }
                    Ok(Event::Incoming(Packet::ConnAck(c))) => {
                        Answer::Connected { session_present: c.session_present }
                    }
                    Ok(Event::Incoming(Packet::SubAck(s))) => {
                        Answer::Subscribed(s.return_codes.into_iter().map(code).collect())
                    }
                    Ok(Event::Incoming(Packet::UnsubAck(_))) => Answer::Unsubscribed(Vec::new()),
                    Ok(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)))
                    | Ok(Event::Outgoing(Outgoing::Publish(0))) => {
                        Answer::Published("Success".to_owned())
                    }
                    Ok(_) => continue,
                    Err(error) => {
                        let _ = to_answers.send(Answer::Closed(error.to_string()));
                        return;
                    }
                };
                let _ = to_answers.send(answer);
            }
        });
        V4 { client, link: Link::open(messages, answers, task).await }
    }

    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    async fn send_subscribe(&self, filters: &[(&str, u8)]) {
        let filters = filters
            .iter()
            .map(|(filter, level)| SubscribeFilter::new((*filter).to_owned(), qos(*level)));
        self.client.subscribe_many(filters).await.expect("queued");
    }

    async fn send_unsubscribe(&self, filter: &str) {
        self.client.unsubscribe(filter).await.expect("queued");
    }

    async fn send_publish(&self, topic: &str, payload: &[u8], level: u8, retain: bool) {
        self.client.publish(topic, qos(level), retain, payload).await.expect("queued");
    }

    async fn send_disconnect(&self) {
        self.client.disconnect().await.expect("queued");
    }
}

fn qos(level: u8) -> QoS {
    rumqttc::qos(level).expect("0, 1 or 2")
}

fn code(reason: SubscribeReasonCode) -> u8 {
    match reason {
        SubscribeReasonCode::Success(granted) => granted as u8,
        SubscribeReasonCode::Failure => 0x80,
    }
}
