//! Streams without a publisher: what a dead worker or a gone publisher left is put in order, ended, or deleted.
//!
//! The stream's lock makes it safe: whoever publishes again holds it, and then nothing is done here.

use super::Worker;
use super::publishers::{catch_up, untold};
use super::rendition::Form;
use super::session::{Protocol, Session};
use crate::control::counters::WorkerCounter;
use crate::control::{Settling, ToFront};
use anyhow::Context;
use braidcast_media::StreamKey;
use braidcast_stream_log::{OpenError, dispose};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

impl Worker {
    /// Carries out what the front asks for a stream and says how it went.
    pub(super) fn settle(&mut self, key: StreamKey, settling: Settling, next_segment: u64) {
        let done = match self.try_settle(&key, settling, next_segment) {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(stream = %key, error = format!("{error:#}"), "cannot settle the stream ({settling:?})");
                false
            }
        };
        self.ring(&[key.slot()]);
        self.tell_front(&ToFront::Settled { key, settling, done });
    }

    /// False: somebody publishes the stream.
    fn try_settle(&mut self, key: &StreamKey, settling: Settling, next_segment: u64) -> anyhow::Result<bool> {
        if settling == Settling::Dispose {
            return match dispose(&self.root, key) {
                Ok(_) => Ok(true),
                Err(OpenError::Locked) => Ok(false),
                Err(error) => Err(error).context("deleting its directory"),
            };
        }
        let mut writer = match self.open_writer(key) {
            Ok(writer) => writer,
            Err(OpenError::Locked) => return Ok(false),
            Err(error) => return Err(error).context("opening its log"),
        };
        writer.end_publish(self.now).context("sealing its log")?;
        if let Some((mut segmenter, reader)) = self.open_segmenter(key, next_segment) {
            let mut finished = untold(&segmenter, next_segment);
            finished.extend(catch_up(&mut segmenter, &reader).context("finishing its last segment")?);
            finished.extend(if settling == Settling::End { segmenter.end_stream() } else { segmenter.finish_publish() });
            self.report_segments(key, &finished);
        }
        if settling == Settling::End {
            writer.end_stream(self.now).context("ending its log")?;
            tracing::info!(stream = %key, "the stream is over: nobody came back to publish it in {}", self.config.play.reconnect_grace);
        }
        Ok(true)
    }

    /// The shared directory is nearly full: streams of this worker that hold more than others may give up their oldest.
    pub(super) fn evict_down_to(&mut self, stream_bytes: u64) {
        let mut segments = 0;
        for (_, publisher) in &mut self.publishers {
            segments += publisher.evict_down_to(stream_bytes) as u64;
        }
        self.page.counter(WorkerCounter::SegmentsEvicted as usize).fetch_add(segments, Ordering::Relaxed);
    }

    /// Gauges of the worker's page.
    pub(super) fn report_gauges(&mut self) {
        let (mut flv, mut rtmp, mut other) = (0, 0, 0);
        let mut viewers: HashMap<usize, u64> = HashMap::new();
        let is_viewer = |session: &&Session| !matches!(session.more.protocol, Protocol::Client(_));
        for session in self.sessions.iter().map(|(_, session)| session).filter(is_viewer) {
            if let Some((stream, _)) = session.viewing() {
                *viewers.entry(stream).or_default() += 1;
            }
            match session.viewing().map(|(_, rendition)| rendition.form) {
                Some(Form::Flv) => flv += 1,
                Some(Form::Rtmp) => rtmp += 1,
                Some(Form::WebSocket | Form::Ts | Form::Aac | Form::Mp3) => other += 1,
                None => {}
            }
        }
        self.tell_watching(&viewers);
        let (publishers, through_rtmp, through_http) = self.relays.counts();
        (flv, rtmp) = (flv + through_http, rtmp + through_rtmp);
        self.set(WorkerCounter::FlvViewers, flv);
        self.set(WorkerCounter::RtmpViewers, rtmp);
        self.set(WorkerCounter::OtherViewers, other);
        let clients = self.sessions.iter().filter(|(_, session)| !matches!(session.more.protocol, Protocol::Client(_)));
        self.set(WorkerCounter::Sessions, (clients.count() + self.relays.len()) as u64);
        self.set(WorkerCounter::Publishers, self.publishers.len() as u64 + publishers);
        let evicted: u64 = self.publishers.iter_mut().map(|(_, publisher)| publisher.newly_evicted()).sum();
        self.page.counter(WorkerCounter::BlocksEvicted as usize).fetch_add(evicted, Ordering::Relaxed);
    }
}
