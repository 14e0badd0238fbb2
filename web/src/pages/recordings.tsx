/** Recordings: found, played, removed. One that is played has an address of its own. */

import { useEffect, useState } from "preact/hooks";
import type { PageProps } from "../app";
import { type ApiError, ask, asError, part } from "../api";
import { Badge, Button, Empty, Head, Loading, type Tone, Trouble, When } from "../parts/basics";
import { Ask } from "../parts/dialog";
import { Field, Select } from "../parts/fields";
import { Table } from "../parts/table";
import { Player } from "../player/player";
import { link, place } from "../routes";
import { may } from "../session";
import { useStore } from "../store";
import type { Recording } from "../types";
import { clock, moment, size } from "../words";

const TONES: Record<Recording["state"], Tone> = { live: "live", complete: "dim", incomplete: "warn" };
const PAGE = 50;

const SINCE: [string, string][] = [
  ["86400", "the last day"],
  ["604800", "the last week"],
  ["2592000", "the last month"],
  ["", "always"],
];

interface Found {
  recordings: Recording[];
  next: string | null;
}

export function RecordingsPage({ me }: PageProps) {
  const here = useStore(place);
  const [user, setUser] = useState("");
  const [node, setNode] = useState("");
  const [text, setText] = useState("");
  const [since, setSince] = useState("604800");
  const [found, setFound] = useState<Found | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [removing, setRemoving] = useState<Recording | null>(null);
  const all = may(me, "recordings", "read") || may(me, "recordings", "list");

  const look = async (after: string, background: boolean) => {
    const from = since && String(Math.floor(Date.now() / 1000) - Number(since));
    const query = Object.entries({ user: user.trim(), node: node.trim(), text: text.trim(), since: from, limit: String(PAGE), after }).filter(([, value]) => value);
    return await ask<Found>(`/web/api/v1/recordings?${new URLSearchParams(query).toString()}`, { background });
  };
  useEffect(() => {
    let now = true;
    const show = async (background: boolean) => {
      try {
        const answer = await look("", background);
        if (!now) return;
        setFound(answer);
        setError(null);
      } catch (refused) {
        if (now) setError(asError(refused));
      }
    };
    const begin = setTimeout(() => void show(false), 250);
    // What is searched for is not searched for again by a clock.
    const timer = text ? undefined : setInterval(() => !document.hidden && void show(true), 10_000);
    return () => {
      now = false;
      clearTimeout(begin);
      clearInterval(timer);
    };
  }, [user, node, text, since]);

  if (here.rest) return <Played id={here.rest} known={found?.recordings.find((one) => one.id === here.rest)} />;
  const recordings = found?.recordings ?? [];
  return (
    <>
      <Head title="Recordings" note={all ? "What was on the screen of sessions, newest first." : "Of your own sessions, newest first."} />
      <div class="filters">
        {all && <Field label="User" value={user} onValue={setUser} autocapitalize="none" spellcheck={false} />}
        <Field label="Node" value={node} onValue={setNode} autocapitalize="none" spellcheck={false} />
        {may(me, "recordings", "read") && <Field label="Text on the screen" value={text} onValue={setText} spellcheck={false} />}
        <Select label="Since" value={since} onValue={setSince} options={SINCE} />
      </div>
      <Trouble error={error} />
      {!found && !error && <Loading />}
      {found && !recordings.length && (
        <Empty icon="recordings" title="No recordings">
          <p>Sessions are recorded where a role or the cluster's configuration says so (record, session_recording: "node" or "strict"). Look at a longer time, or take a filter away.</p>
        </Empty>
      )}
      {recordings.length > 0 && (
        <Table
          label="Recordings"
          rows={recordings}
          id={(recording) => recording.id}
          columns={[
            {
              title: "Who",
              class: "name",
              show: (recording) => (
                <>
                  <strong>{recording.user}</strong>
                  <small>
                    {recording.login}@{recording.node}
                  </small>
                </>
              ),
            },
            {
              title: "What",
              class: "wide",
              show: (recording) => (
                <>
                  {recording.kind}
                  {recording.command && <small class="mono">{recording.command.slice(0, 120)}</small>}
                </>
              ),
            },
            { title: "Began", class: "nowrap", show: (recording) => <When at={recording.started} /> },
            { title: "Length", class: "nowrap", show: (recording) => `${clock(recording.seconds)}, ${size(recording.bytes)}` },
            {
              title: "State",
              show: (recording) => (
                <>
                  <Badge tone={TONES[recording.state]}>{recording.state}</Badge>
                  {recording.lost > 0 && <small>{size(recording.lost)} lost</small>}
                </>
              ),
            },
            {
              title: "Actions",
              hidden: true,
              class: "actions",
              show: (recording) => (
                <>
                  <a class="button main small" href={link("recordings", recording.id)} aria-label={`${recording.state === "live" ? "Watch" : "Play"} ${recording.user} on ${recording.node}`}>
                    {recording.state === "live" ? "Watch" : "Play"}
                  </a>
                  {may(me, "recordings", "delete") && recording.state !== "live" && (
                    <Button kind="quiet" icon="trash" title="Remove" aria-label={`Remove the recording of ${recording.user}`} onClick={() => setRemoving(recording)} />
                  )}
                </>
              ),
            },
          ]}
        />
      )}
      {found?.next && (
        <p class="more">
          <Button
            onClick={() => {
              look(found.next ?? "", false).then(
                (more) => setFound({ recordings: [...recordings, ...more.recordings], next: more.next }),
                (refused) => setError(asError(refused)),
              );
            }}
          >
            Show more
          </Button>
        </p>
      )}
      {removing && (
        <Ask
          title="Remove this recording?"
          yes="Remove"
          danger
          onClose={() => setRemoving(null)}
          act={async () => {
            await ask(`/web/api/v1/recordings/${part(removing.id)}`, { method: "DELETE" });
            setFound({ recordings: recordings.filter((one) => one !== removing), next: found?.next ?? null });
            setRemoving(null);
          }}
        >
          <p>
            Of {removing.user} on {removing.node}, {moment(removing.started)}. It cannot be had back; that you removed it stays in the audit log.
          </p>
        </Ask>
      )}
    </>
  );
}

function Played({ id, known }: { id: string; known?: Recording }) {
  const [recording, setRecording] = useState<Recording | null>(known ?? null);
  const [missing, setMissing] = useState(false);
  useEffect(() => {
    if (recording) return;
    // Somebody followed a link: its list entry says whether it is live.
    ask<Found>("/web/api/v1/recordings?limit=1000").then(
      ({ recordings }) => {
        const found = recordings.find((one) => one.id === id);
        if (found) setRecording(found);
        else setMissing(true);
      },
      () => setMissing(true),
    );
  }, [id]);
  const back = (
    <a class="button" href={link("recordings")}>
      All recordings
    </a>
  );
  if (!recording && !missing) return <Loading />;
  if (!recording) {
    return (
      <>
        <Head title="Recording">{back}</Head>
        <Player id={id} live={false} label="Recording" />
      </>
    );
  }
  const what = `${recording.login}@${recording.node}`;
  return (
    <>
      <Head
        title={`${recording.user} on ${recording.node}`}
        note={
          <>
            {what}, {moment(recording.started)}
            {recording.parties && recording.parties.length > 0 && <>, with {recording.parties.map((party) => party.user).join(", ")}</>}
          </>
        }
      >
        <a class="button" href={`/web/api/v1/recordings/${part(id)}`} download={`${id}.cast`}>
          Download
        </a>
        {back}
      </Head>
      {recording.lost > 0 && (
        <p class="note warn">
          {size(recording.lost)} of this recording were lost on the way; marks below say where.
        </p>
      )}
      <Player id={id} live={recording.state === "live"} label={`Recording of ${what}`} />
    </>
  );
}
