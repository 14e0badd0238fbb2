/** The audit log: found, filtered, followed. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { PageProps } from "../app";
import { type ApiError, ask, asError } from "../api";
import { Badge, Button, Empty, Head, Loading, type Tone, Trouble } from "../parts/basics";
import { Field, Select } from "../parts/fields";
import { Table } from "../parts/table";
import type { AuditEvent } from "../types";
import { moment } from "../words";

const FOLLOW_EVERY = 2000;
/** lines that are kept in the page; the log itself has them all */
const MOST = 500;

const SINCE: [string, string][] = [
  ["3600", "the last hour"],
  ["86400", "the last day"],
  ["604800", "the last week"],
  ["", "always"],
];

/** fields with a column of their own, or that only programs want */
const SHOWN = new Set(["id", "time", "event", "code", "user", "node", "cluster", "node_uuid", "arrived", "hash", "by", "received", "identity", "fingerprint", "certificate_serial", "serial", "node_name", "boot"]);

export function AuditPage(_: PageProps) {
  const [user, setUser] = useState("");
  const [node, setNode] = useState("");
  const [type, setType] = useState("");
  const [since, setSince] = useState("86400");
  const [follows, setFollows] = useState(true);
  const [events, setEvents] = useState<AuditEvent[] | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const last = useRef(0);

  useEffect(() => {
    let here = true;
    const filters = { user: user.trim(), node: node.trim(), type };
    const question = (more: Record<string, string>) =>
      new URLSearchParams(Object.entries({ ...filters, limit: String(MOST), ...more }).filter(([, value]) => value)).toString();
    const look = async (first: boolean) => {
      try {
        const more: Record<string, string> = first ? { since: since && String(Math.floor(Date.now() / 1000) - Number(since)) } : { after: String(last.current) };
        const answer = await ask<{ events: AuditEvent[]; last: number }>(`/web/api/v1/audit?${question(more)}`, { background: !first });
        if (!here) return;
        last.current = answer.last;
        setEvents((held) => (first ? answer.events : [...(held ?? []), ...answer.events]).slice(-MOST));
        setError(null);
      } catch (found) {
        if (here) setError(asError(found));
      }
    };
    // What is typed into a filter counts when it has stood for a moment.
    const begin = setTimeout(() => void look(true), 250);
    const timer = follows
      ? setInterval(() => {
          if (!document.hidden && last.current) void look(false);
        }, FOLLOW_EVERY)
      : undefined;
    return () => {
      here = false;
      clearTimeout(begin);
      clearInterval(timer);
    };
  }, [user, node, type, since, follows]);

  const found = [...(events ?? [])].reverse();
  const types = [...new Set([type, ...found.map((event) => event.event)])].filter(Boolean).sort();
  return (
    <>
      <Head title="Audit" note="Newest first. Nodes, proxies and auth tell; nobody can take anything back.">
        <Button icon={follows ? "pause" : "play"} aria-pressed={follows} onClick={() => setFollows(!follows)}>
          {follows ? "Following" : "Follow"}
        </Button>
      </Head>
      <div class="filters">
        <Field label="User" value={user} onValue={setUser} autocapitalize="none" spellcheck={false} />
        <Field label="Node" value={node} onValue={setNode} autocapitalize="none" spellcheck={false} />
        <Select label="Event" value={type} onValue={setType} options={[["", "all"], ...types.map((name): [string, string] => [name, name])]} />
        <Select label="Since" value={since} onValue={setSince} options={SINCE} />
      </div>
      <Trouble error={error} />
      {events === null && !error && <Loading />}
      {events !== null && found.length === 0 && (
        <Empty icon="audit" title="Nothing fits">
          <p>No such event is in the log. Look at a longer time, or take a filter away.</p>
        </Empty>
      )}
      {found.length > 0 && (
        <Table
          label="Audit events"
          rows={found}
          id={(event) => String(event.id)}
          columns={[
            { title: "When", class: "nowrap", show: (event) => moment(Number(event.time)) },
            { title: "Event", show: (event) => <Badge tone={tone(event.code)}>{event.event}</Badge> },
            { title: "Who", class: "nowrap", show: (event) => text(event.user) || text(event.by).replace(/^user:/, "") },
            { title: "Node", class: "nowrap", show: (event) => text(event.node) },
            { title: "What", class: "wide", show: (event) => <Detail event={event} /> },
          ]}
        />
      )}
      {found.length >= MOST && <p class="more">The newest {MOST} are shown. tctl audit has the others.</p>}
    </>
  );
}

const TIMES = new Set(["expires", "ends", "valid_before", "valid_after"]);

/** The last letter of a code says how grave it is. */
function tone(code: string): Tone {
  if (code.endsWith("E")) return "bad";
  return code.endsWith("W") ? "warn" : "dim";
}

function text(value: unknown): string {
  if (value === null || value === undefined) return "";
  return Array.isArray(value) ? value.map(text).join(",") : typeof value === "object" ? JSON.stringify(value) : String(value);
}

function Detail({ event }: { event: AuditEvent }) {
  return (
    <span class="event-detail">
      {Object.entries(event)
        .filter(([key, value]) => !SHOWN.has(key) && value !== null && value !== "")
        .map(([key, value]) => (
          <span key={key}>
            {key}=<b>{(TIMES.has(key) ? moment(Number(value)) : text(value)).slice(0, 200)}</b>{" "}
          </span>
        ))}
    </span>
  );
}
