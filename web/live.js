// "MuseTalk live" in the menu, the command palette and the key bindings: opens the page of the live avatar.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "MuseTalkSuite.Live",

  commands: [
    {
      id: "MuseTalkSuite.OpenLive",
      label: "MuseTalk live",
      icon: "pi pi-video",
      function: () => window.open(`${app.api.api_base}/musetalk/`, "_blank", "noopener"),
    },
  ],

  menuCommands: [{ path: ["Extensions"], commands: ["MuseTalkSuite.OpenLive"] }],
});
