/** Who is in a shell now: look on, join, end. */

import { useState } from "preact/hooks";
import type { PageProps } from "../app";
import { ask, part } from "../api";
import { Badge, Button, Empty, Head, Loading, type Tone, Trouble, When } from "../parts/basics";
import { Ask } from "../parts/dialog";
import { useAsked } from "../parts/asked";
import { Table } from "../parts/table";
import { go, link } from "../routes";
import { may } from "../session";
import { joinSession } from "../terminal/tabs";
import type { LiveSession } from "../types";

function joins(session: LiveSession, mode: "observer" | "peer"): void {
  joinSession(session.id, session.node, session.user, mode);
  go("terminals");
}

const TONES: Record<LiveSession["state"], Tone> = { live: "good", lost: "warn", ending: "dim" };

export function SessionsPage({ me }: PageProps) {
  const { answer, error, reload } = useAsked<{ sessions: LiveSession[] }>("/web/api/v1/sessions", 3000);
  const [ending, setEnding] = useState<LiveSession | null>(null);
  if (!answer) return error ? <Trouble error={error} again={() => void reload()} /> : <Loading />;
  const sessions = [...answer.sessions].sort((a, b) => b.since - a.since);
  const mayEnd = may(me, "sessions", "delete");
  return (
    <>
      <Head title="Active sessions" note={sessions.length ? `${sessions.length} now` : undefined} />
      <Trouble error={error} />
      {!sessions.length && (
        <Empty icon="sessions" title="Nobody is in a session">
          <p>{may(me, "sessions", "read") ? "Sessions of everybody show here while they last." : "Your sessions show here while they last, and those that you may join."}</p>
          <a class="button" href={link("nodes")}>
            Choose a node
          </a>
        </Empty>
      )}
      {sessions.length > 0 && (
        <Table
          label="Active sessions"
          rows={sessions}
          id={(session) => session.id}
          columns={[
            {
              title: "Who",
              class: "name",
              show: (session) => (
                <>
                  <strong>{session.user}</strong>
                  <small>
                    {session.login}@{session.node}
                  </small>
                </>
              ),
            },
            {
              title: "What",
              show: (session) => (
                <>
                  {session.kind}
                  {session.command && <small class="mono">{session.command}</small>}
                </>
              ),
            },
            {
              title: "State",
              show: (session) => (
                <>
                  <Badge tone={TONES[session.state]}>{session.state === "lost" ? "node is away" : session.state}</Badge>
                  {session.parties && session.parties.length > 0 && <small>with {session.parties.map((party) => `${party.user} (${party.mode})`).join(", ")}</small>}
                </>
              ),
            },
            { title: "Since", class: "nowrap", show: (session) => <When at={session.since} /> },
            {
              title: "Actions",
              hidden: true,
              class: "actions",
              show: (session) => (
                <>
                  {session.join?.includes("observer") && session.state === "live" && (
                    <Button small icon="eye" aria-label={`Watch ${session.user} on ${session.node}`} onClick={() => joins(session, "observer")}>
                      Watch
                    </Button>
                  )}{" "}
                  {session.join?.includes("peer") && session.state === "live" && (
                    <Button small icon="join" aria-label={`Join ${session.user} on ${session.node}`} onClick={() => joins(session, "peer")}>
                      Join
                    </Button>
                  )}{" "}
                  {mayEnd && (
                  <Button small icon="stop" disabled={session.state === "ending"} aria-label={`End the session of ${session.user} on ${session.node}`} onClick={() => setEnding(session)}>
                    End
                  </Button>
                  )}
                </>
              ),
            },
          ]}
        />
      )}
      {ending && (
        <Ask
          title={`End the session of ${ending.user} on ${ending.node}?`}
          yes="End it"
          danger
          onClose={() => setEnding(null)}
          act={async () => {
            await ask(`/web/api/v1/sessions/${part(ending.id)}`, { method: "DELETE" });
            setEnding(null);
            await reload();
          }}
        >
          <p>What runs in it gets a hang-up, and {ending.user} reads that you ended it. They can connect again: a lock keeps them out.</p>
        </Ask>
      )}
    </>
  );
}
