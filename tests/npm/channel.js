// A client of the channels that keeps its place, by any version of the official package; the same
// in Node and in a page. Tells `say` what happens, and does what it is told.
globalThis.follow = (Socket, url, options, topic, say) => {
  const socket = new Socket(url, options);
  let place = {};
  let begin;
  let channel;
  let isBeatAsked = false;

  const hear = (event) => {
    place = { cursor: event.cursor };
    say(["event", event.type, event.data]);
  };

  const join = () => {
    channel = socket.channel(topic, () => place);
    channel.onMessage = (name, payload) => {
      if (!name.startsWith("phx_") && !name.startsWith("chan_reply_")) hear(payload);
      return payload;
    };
    channel.onClose(() => say(["left"]));
    channel
      .join()
      .receive("ok", (response) => {
        say(["joined", response.messages.length]);
        response.messages.forEach(hear);
        place = { cursor: response.cursor };
        begin ??= place;
      })
      .receive("error", (response) => say(["refused", response.reason]));
  };

  socket.onMessage(({ topic, payload }) => {
    if (isBeatAsked && topic === "phoenix") say(["beat", payload.status]);
    isBeatAsked &&= topic !== "phoenix";
  });
  socket.onClose((event) => say(["closed", event.code]));
  socket.connect();
  join();

  const push = () => {
    const pushed = channel.push("shout", { any: 1 });
    pushed.receive("error", (response) => say(["pushed", response.reason]));
  };
  return {
    join,
    push,
    leave: () => channel.leave(),
    beat: () => (isBeatAsked = true),
    // Joins again behind what it was sent first.
    rewind: () => {
      place = begin;
      join();
    },
  };
};
