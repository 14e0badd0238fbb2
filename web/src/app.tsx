/** The page as a whole: who is a stranger logs in; who is logged in has the frame and a page in it. */

import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type ApiError, asError } from "./api";
import { Loading, Trouble } from "./parts/basics";
import { Frame } from "./frame";
import { entry } from "./menu";
import { InvitationPage } from "./pages/invitation";
import { LoginPage } from "./pages/login";
import { parsePlace, place } from "./routes";
import { who } from "./session";
import { useStore } from "./store";
import { restore } from "./terminal/tabs";
import type { Whoami } from "./types";

const invited = location.pathname === "/invite";

export function App() {
  const now = useStore(who);
  const [joining, setJoining] = useState(invited);
  if (joining) {
    return (
      <InvitationPage
        onDone={() => {
          // The invitation leaves the address bar and the history with it.
          history.replaceState(null, "", "/");
          place.value = parsePlace("");
          setJoining(false);
        }}
      />
    );
  }
  if (now.state === "asking") return <Loading />;
  if (now.state === "stranger") return <LoginPage why={now.why} />;
  return <Inside me={now.me} />;
}

export interface PageProps {
  me: Whoami;
}

function Inside({ me }: { me: Whoami }) {
  const here = useStore(place);
  const found = entry(me, here.page);
  useEffect(() => void restore(), []);
  useEffect(() => {
    document.title = `${found?.title ?? "Not found"} · ${me.cluster}`;
  }, [found, me.cluster]);
  return (
    <Frame me={me} page={here.page}>
      {found ? <Lazy key={here.page} load={found.load} me={me} /> : <NotFound />}
    </Frame>
  );
}

function NotFound() {
  return (
    <div class="empty">
      <h1>There is no such page</h1>
      <p>
        Or your roles do not open it. <a href="#/nodes">Your nodes</a> are here.
      </p>
    </div>
  );
}

/** A page that is loaded when it is first looked at. */
function Lazy({ load, me }: { load: () => Promise<ComponentType<PageProps>>; me: Whoami }) {
  const [Page, setPage] = useState<ComponentType<PageProps> | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  useEffect(() => {
    let here = true;
    load().then(
      (found) => here && setPage(() => found),
      (found) => here && setError(asError(found)),
    );
    return () => {
      here = false;
    };
  }, [load]);
  if (error) return <Trouble error={error} again={() => location.reload()} />;
  return Page ? <Page me={me} /> : <Loading />;
}
