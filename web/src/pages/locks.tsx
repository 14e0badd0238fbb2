import { Head } from "../parts/basics";

export function LocksPage() {
  return <Head title="Locks" />;
}
