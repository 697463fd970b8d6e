// Frontends from 1.30 to the mending of ComfyUI_frontend issue 6748 lose the translations of every pack when the page is
// not in English, ComfyUI 0.3.75's among them. Here the texts of locales/ are set once more, on our own nodes only.
import { app } from "../../scripts/app.js";

let translations = {};

function textsOf(nodeData) {
  if (nodeData?.category !== "MuseTalk") return undefined;
  return translations[app.extensionManager.setting.get("Comfy.Locale")]?.nodeDefs?.[nodeData.name];
}

app.registerExtension({
  name: "MuseTalkSuite.Language",

  async init() {
    translations = await (await app.api.fetchApi("/i18n")).json();
  },

  beforeRegisterNodeDef(nodeType, nodeData) {
    const texts = textsOf(nodeData);
    if (!texts) return;
    nodeData.display_name = texts.display_name;
    nodeData.description = texts.description;
    for (const [name, spec] of Object.entries({ ...nodeData.input.required, ...nodeData.input.optional })) {
      spec[1].tooltip = texts.inputs[name]?.tooltip ?? spec[1].tooltip;
    }
  },

  nodeCreated(node) {
    const texts = textsOf(node.constructor.nodeData);
    if (!texts) return;
    for (const slot of node.inputs) slot.localized_name = texts.inputs[slot.name]?.name ?? slot.localized_name;
    for (const widget of node.widgets ?? []) widget.label = texts.inputs[widget.name]?.name ?? widget.label;
    node.outputs.forEach((slot, i) => (slot.localized_name = texts.outputs[i]?.name ?? slot.localized_name));
  },
});
