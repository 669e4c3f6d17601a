//! What carries MQTT besides TCP: PROXY headers and WebSocket frames, pure.
