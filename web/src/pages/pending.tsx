import { Head } from "../parts/basics";

export function PendingPage() {
  return <Head title="Waiting devices" />;
}
