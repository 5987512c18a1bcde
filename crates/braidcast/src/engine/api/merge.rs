//! One answer of several. Pure functions on what the processes said.

use super::ApiAnswer;
use super::ids::{self, Named};
use super::plan::{Kind, Question};
use super::sums::{VHOST, add};
use crate::engine::clients::Clients;
use braidcast_protocols::http::Answer;
use serde_json::{Value, json};
use std::collections::HashMap;

/// SRS's code for a vhost that is not there.
const NO_VHOST: i64 = 2014;

/// What came back from a process: an answer, or what is wrong with it, for each target.
pub(super) type Heard = (u16, Vec<Result<Answer, String>>);

/// A process's good answer.
#[derive(Debug)]
struct Said {
    process: u16,
    body: Value,
    vhosts: Vec<Value>,
}

/// What all said, in their order.
#[derive(Debug)]
pub(super) struct Round {
    several: bool,
    said: Vec<Said>,
    /// Who answered with an error of SRS.
    refused: Vec<(u16, ApiAnswer)>,
    /// Who did not answer, or not as SRS does.
    missing: Vec<u16>,
}

impl From<Answer> for ApiAnswer {
    fn from(answer: Answer) -> Self {
        let field = |name| answer.head.field(name).map(str::to_owned);
        Self {
            status: answer.head.status,
            content_type: field("content-type").unwrap_or_default(),
            location: field("location"),
            www_authenticate: field("www-authenticate"),
            body: answer.body,
        }
    }
}

impl Round {
    /// Sorts answers. An answer that asks for a password passes in place of everything.
    pub fn new(heard: Vec<Heard>) -> Result<Self, ApiAnswer> {
        let mut round = Self { several: heard.len() > 1, said: Vec::new(), refused: Vec::new(), missing: Vec::new() };
        for (process, answers) in heard {
            let mut answers = answers.into_iter();
            let Some(Ok(first)) = answers.next() else {
                round.missing.push(process);
                continue;
            };
            if matches!(first.head.status, 401 | 403) {
                return Err(first.into());
            }
            match code_and_body(&first) {
                Some((0, body)) if first.head.status == 200 => {
                    let also = answers.next().and_then(Result::ok).and_then(|answer| code_and_body(&answer)).map(|(_, body)| body);
                    let vhosts = also.as_ref().unwrap_or(&body)["vhosts"].as_array().cloned().unwrap_or_default();
                    round.said.push(Said { process, body, vhosts });
                }
                None if first.head.status == 200 => round.missing.push(process),
                _ => round.refused.push((process, first.into())),
            }
        }
        Ok(round)
    }

    /// Puts the addresses of clients in place of those that the processes see: those of the relay that the clients come through.
    pub fn tell_addresses(&mut self, known: &Clients) {
        for Said { process, body, .. } in &mut self.said {
            let tell = |client: &mut Value| {
                let address = client["id"].as_str().and_then(|id| known.address(*process, id));
                if let (Some(address), Some(ip)) = (address, client.get_mut("ip")) {
                    *ip = address.to_string().into();
                }
            };
            if let Some(Value::Array(clients)) = body.get_mut(Kind::Clients.all()) {
                clients.iter_mut().for_each(tell);
            }
            if let Some(client) = body.get_mut(Kind::Clients.one()) {
                tell(client);
            }
        }
    }

    /// The process that has a client. It is certain: if one that does not answer may have it too, that is an error.
    pub fn locate_client(&self, named: &Named) -> Result<u16, ApiAnswer> {
        self.locate(Kind::Clients, named, true).map(|at| self.said[at].process)
    }

    /// Whose answer has a client or a stream.
    fn locate(&self, kind: Kind, named: &Named, certain: bool) -> Result<usize, ApiAnswer> {
        let having: Vec<_> = (0..self.said.len()).filter(|at| named.may_be_of(self.said[*at].process)).collect();
        let (what, id) = (kind.one(), &named.id);
        match having.as_slice() {
            [] => Err(self.nothing()),
            [_] if certain && named.process.is_none() && named.is_counted() && !self.missing.is_empty() => {
                let silent = ids::list(&self.missing);
                Err(ApiAnswer::error(
                    503,
                    format_args!("processes that may have a {what} {id} too do not answer: {silent}; write process:{id}"),
                ))
            }
            [at] => Ok(*at),
            several => {
                let forms: Vec<_> = several.iter().map(|at| format!("{}:{id}", self.said[*at].process)).collect();
                Err(ApiAnswer::error(409, format_args!("several processes have a {what} {id}: write {}", forms.join(" or "))))
            }
        }
    }

    /// The merged answer.
    pub fn merge(mut self, question: &Question) -> ApiAnswer {
        let merged = match question {
            Question::Single(kind, named) => self.single(*kind, named),
            Question::Kick(named) => self.single(Kind::Clients, named),
            _ if self.said.is_empty() => Err(self.nothing()),
            Question::First => Ok(std::mem::take(&mut self.said[0].body)),
            Question::Sum(sums) => {
                let (first, others) = self.said.split_at_mut(1);
                others.iter().for_each(|other| sums.take(&mut first[0].body, &other.body));
                Ok(std::mem::take(&mut first[0].body))
            }
            Question::List { kind, start, count } => Ok(self.list(*kind, *start, *count)),
            Question::Vhosts => {
                let vhosts = Vhosts::merge(&self.said, self.several).merged;
                Ok(self.envelope("vhosts", Value::Array(vhosts)))
            }
            Question::Vhost(named) => self.vhost(named),
        };
        match merged {
            Ok(mut body) => {
                let missing = self.all_missing(question);
                if !missing.is_empty() {
                    body["missing"] = json!(missing);
                }
                ApiAnswer::json(200, &body)
            }
            Err(answer) => answer,
        }
    }

    /// Who is not in the answer. Where one has what all were asked for, the others' "not here" is an answer.
    fn all_missing(&self, question: &Question) -> Vec<u16> {
        let refused =
            self.refused.iter().map(|(process, _)| *process).filter(|_| !matches!(question, Question::Single(..) | Question::Kick(_)));
        let mut missing: Vec<_> = self.missing.iter().copied().chain(refused).collect();
        missing.sort_unstable();
        missing
    }

    /// The answer if nobody has one: SRS's own error, else that nobody answers.
    fn nothing(&self) -> ApiAnswer {
        let Some((_, first)) = self.refused.first() else {
            return ApiAnswer::error(503, format_args!("no SRS process answers: {}", ids::list(&self.missing)));
        };
        let mut answer = first.clone();
        if !self.missing.is_empty()
            && let Ok(Value::Object(mut body)) = serde_json::from_slice(&answer.body)
        {
            body.insert("missing".to_owned(), json!(self.missing));
            answer.body = Value::Object(body).to_string().into_bytes();
        }
        answer
    }

    /// The first answer with other content.
    fn envelope(&mut self, key: &str, content: Value) -> Value {
        let mut body = std::mem::take(&mut self.said[0].body);
        body[key] = content;
        body
    }

    fn single(&mut self, kind: Kind, named: &Named) -> Result<Value, ApiAnswer> {
        let at = self.locate(kind, named, false)?;
        let vhosts = Vhosts::merge(&self.said, self.several);
        let Said { process, body, .. } = &mut self.said[at];
        if self.several
            && let Some(item) = body.get_mut(kind.one())
        {
            vhosts.rename(*process, item);
        }
        Ok(std::mem::take(body))
    }

    fn list(&mut self, kind: Kind, start: usize, count: usize) -> Value {
        let vhosts = Vhosts::merge(&self.said, self.several);
        let mut items = Vec::new();
        for said in &mut self.said {
            if let Value::Array(own) = said.body[kind.all()].take() {
                items.extend(own.into_iter().map(|item| (said.process, item)));
            }
        }
        if self.several {
            items.iter_mut().for_each(|(process, item)| vhosts.rename(*process, item));
            ids::qualify_shared(&mut items);
        }
        let totals = self.said.iter().filter_map(|said| said.body.get("total"));
        let total = totals.fold(None, |sum: Option<Value>, total| sum.map_or(Some(total.clone()), |sum| add(&sum, total)));
        let page = items.into_iter().map(|(_, item)| item).skip(start).take(count).collect();
        let mut body = self.envelope(kind.all(), page);
        if let Some(total) = total {
            body["total"] = total;
        }
        body
    }

    fn vhost(&mut self, named: &Named) -> Result<Value, ApiAnswer> {
        let vhosts = Vhosts::merge(&self.said, self.several);
        let matching = |(process, id): &&(u16, String)| named.may_be_of(*process) && *id == named.id;
        let mut meant: Vec<_> = vhosts.places.keys().filter(matching).map(|key| (key.0, vhosts.places[key])).collect();
        meant.sort_unstable();
        let Some(&(_, place)) = meant.first() else {
            return Err(ApiAnswer::json(200, &json!({ "code": NO_VHOST })));
        };
        if meant.iter().any(|(_, other)| *other != place) {
            let forms: Vec<_> = meant.iter().map(|(process, _)| format!("{process}:{}", named.id)).collect();
            return Err(ApiAnswer::error(409, format_args!("several vhosts have this id: write {}", forms.join(" or "))));
        }
        let mut body = self.envelope("vhost", vhosts.merged[place].clone());
        if let Some(body) = body.as_object_mut() {
            body.shift_remove("vhosts");
        }
        Ok(body)
    }
}

/// SRS's code, and the object that holds it.
fn code_and_body(answer: &Answer) -> Option<(i64, Value)> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    Some((body.as_object()?.get("code")?.as_i64()?, body))
}

/// The vhosts of all, those of one name together.
struct Vhosts {
    merged: Vec<Value>,
    /// Where a process's vhost went.
    places: HashMap<(u16, String), usize>,
}

impl Vhosts {
    fn merge(said: &[Said], several: bool) -> Self {
        let (mut merged, mut names, mut places) = (Vec::<Value>::new(), HashMap::new(), HashMap::new());
        for (process, vhost) in said.iter().flat_map(|said| said.vhosts.iter().map(|vhost| (said.process, vhost))) {
            let (Some(name), Some(id)) = (vhost["name"].as_str(), ids::text(&vhost["id"])) else { continue };
            let place = *names.entry(name).or_insert_with(|| merged.len());
            if place < merged.len() {
                VHOST.take(&mut merged[place], vhost);
            } else {
                let mut vhost = vhost.clone();
                if several {
                    ids::qualify_counted(&mut vhost["id"], process);
                }
                merged.push(vhost);
            }
            places.insert((process, id), place);
        }
        Self { merged, places }
    }

    /// Makes the ids in a stream or a client those of the merged answers.
    fn rename(&self, process: u16, item: &mut Value) {
        if let Some(vhost) = item.get_mut("vhost")
            && let Some(place) = ids::text(vhost).and_then(|id| self.places.get(&(process, id)))
        {
            *vhost = self.merged[*place]["id"].clone();
        }
        for id in ["/id", "/stream", "/vhost", "/publish/cid"] {
            if let Some(id) = item.pointer_mut(id) {
                ids::qualify_counted(id, process);
            }
        }
    }
}
