"""Mistakes in part 3: the methods of `KVCache`."""

from __future__ import annotations

from ..source import Mistake, mistake

RESULT = "return self.keys[layer, :, :, :S], self.values[layer, :, :, :S]"
STORE_K = "self.keys[layer, :, :, self.length : S] = k"
STORE_V = "self.values[layer, :, :, self.length : S] = v"
RESERVE = "self.reserve(max(S, min(2 * self.length, self.n_positions)))"
LENGTH_CHECK = "if self.keys.shape[3] < S"
GROWN_WITHOUT_COPY = """\
for name in ("keys", "values"):
    L, B, H, _, D = self.keys.shape
    setattr(self, name, np.zeros((L, B, H, S, D), k.dtype))"""
LONGER = """\
for name in ("keys", "values"):
    old = getattr(self, name)
    setattr(self, name, np.append(old, np.zeros((*old.shape[:3], k.shape[2], old.shape[4]), old.dtype), axis=3))"""
JOINED_K = "k = np.concatenate([self.keys[layer, :, :, : self.length], k], axis=2)"
JOINED_V = "v = np.concatenate([self.values[layer, :, :, : self.length], v], axis=2)"
OWN_STORE = """\
stored = self.__dict__.setdefault("stored", {})
if layer in stored:
    k, v = (np.concatenate(pair, axis=2) for pair in zip(stored[layer], (k, v)))
stored[layer] = k, v
return k, v"""
COPIED = "new[..., : self.length, :] = old[:, :, None, :, : self.length]"
ALLOCATED = "np.empty((L, B, repeats, H, n, D), self.keys.dtype)"
RESHAPED = "new.reshape(L, B * repeats, H, n, D)"

MISTAKES: dict[str, list[Mistake]] = {
    "KVCache.update": [
        mistake(
            "layer_0",
            "All layers are stored in the place of layer 0. Each layer has its own.",
            (STORE_K, f"layer = 0\n{STORE_K}"),
        ),
        mistake(
            "from_0",
            "The new positions are stored at the beginning, over the old ones. They must come after self.length.",
            (STORE_K, STORE_K.replace("self.length : S", ": k.shape[2]")),
            (STORE_V, STORE_V.replace("self.length : S", ": k.shape[2]")),
        ),
        mistake(
            "at_the_end",
            "The new positions are stored at the end of the memory. They must come right after self.length positions.",
            (STORE_K, STORE_K.replace("self.length : S", "-k.shape[2] :")),
            (STORE_V, STORE_V.replace("self.length : S", "-k.shape[2] :")),
        ),
        mistake(
            "at_the_end_exact",
            "The new positions are stored at the end of the memory. They must come right after self.length positions:"
            " the memory may be longer.",
            (RESERVE, "self.reserve(S)"),
            (STORE_K, STORE_K.replace("self.length : S", "-k.shape[2] :")),
            (STORE_V, STORE_V.replace("self.length : S", "-k.shape[2] :")),
        ),
        mistake(
            "one_position",
            "Only the last of the new positions is stored. All T must be: there may be more than one.",
            (STORE_K, "self.keys[layer, :, :, S - 1] = k[:, :, -1]"),
            (STORE_V, "self.values[layer, :, :, S - 1] = v[:, :, -1]"),
        ),
        mistake(
            "first_position",
            "Only the first of the new positions is stored and counted. There may be more than one.",
            ("S, B = self.length + k.shape[2]", "S, B = self.length + 1"),
            (STORE_K, STORE_K.replace("= k", "= k[:, :, :1]")),
            (STORE_V, STORE_V.replace("= v", "= v[:, :, :1]")),
        ),
        mistake(
            "broadcast",
            "The last new position is stored in the place of all T new ones.",
            (STORE_K, STORE_K.replace("= k", "= k[:, :, -1:]")),
            (STORE_V, STORE_V.replace("= v", "= v[:, :, -1:]")),
        ),
        mistake(
            "only_new",
            "Only the new keys and values came out. The result must have all so far, the old ones first.",
            (RESULT, "return k, v"),
        ),
        mistake(
            "only_old",
            "The new positions are missing in the result. It must have self.length + T positions.",
            (RESULT, RESULT.replace(":S", ": self.length")),
        ),
        mistake(
            "whole_memory",
            "The whole memory came out. Only the first self.length + T positions are stored.",
            (RESULT, RESULT.replace(", :, :, :S", "")),
        ),
        mistake(
            "whole_memory_exact",
            "The whole memory came out. It may be longer than the self.length + T positions that are stored.",
            (RESERVE, "self.reserve(S)"),
            (RESULT, RESULT.replace(", :, :, :S", "")),
        ),
        mistake(
            "all_layers",
            "The keys and values of all layers came out. They must be those of `layer`.",
            (RESULT, RESULT.replace("layer, :, :", ":, :, :")),
        ),
        mistake(
            "one_too_many",
            "The result has one position too many, which is not stored yet.",
            (RESULT, RESULT.replace(":S", ": S + 1")),
        ),
        mistake(
            "exchanged",
            "Keys and values are exchanged in the result.",
            (RESULT, "return self.values[layer, :, :, :S], self.keys[layer, :, :, :S]"),
        ),
        mistake("k_as_values", "The keys are stored as the values, too.", (STORE_V, STORE_V.replace("= v", "= k"))),
        mistake("v_as_keys", "The values are stored as the keys, too.", (STORE_K, STORE_K.replace("= k", "= v"))),
        mistake(
            "stored_exchanged",
            "From the second call on, keys and values are exchanged: k belongs to self.keys, v to self.values.",
            (
                RESULT,
                f"k, v = {RESULT.removeprefix('return ')}\nk, v = k.copy(), v.copy()\n"
                "self.keys[layer, :, :, :S], self.values[layer, :, :, :S] = v, k\nreturn k, v",
            ),
        ),
        mistake(
            "not_stored",
            "The new positions are in the result, but they are not stored for the next call.",
            (LENGTH_CHECK, "if False"),
            (STORE_K, JOINED_K),
            (STORE_V, JOINED_V),
            (RESULT, "return k, v"),
        ),
        mistake(
            "memory_without_new",
            "There is memory for the new positions, but they are not stored in it for the next call.",
            (STORE_K, JOINED_K),
            (STORE_V, JOINED_V),
            (RESULT, "return k, v"),
        ),
        mistake(
            "length_per_layer",
            "self.length grows in each layer. `hidden_states` adds T once, after the last layer.",
            (RESULT, f"self.length = S\n{RESULT}"),
        ),
        mistake(
            "length_after_last_layer",
            "self.length grows after the last layer. `hidden_states` does this already.",
            (RESULT, f"if layer == len(self.keys) - 1:\n    self.length = S\n{RESULT}"),
        ),
        mistake(
            "length_after_first_layer",
            "self.length grows in layer 0. `hidden_states` adds T once, after the last layer.",
            (RESULT, f"if layer == 0:\n    self.length = S\n{RESULT}"),
        ),
        mistake(
            "length_ignored",
            "The new positions follow all positions that were ever stored. They must follow the first self.length: the"
            " cache may have been cut.",
            (RESULT, OWN_STORE),
        ),
        mistake(
            "memory_ignored",
            "The new positions follow the end of the memory, not self.length. The memory may be longer.",
            (LENGTH_CHECK, "if layer == 0"),
            (RESERVE, LONGER),
            (STORE_K, STORE_K.replace("self.length : S", "-k.shape[2] :")),
            (STORE_V, STORE_V.replace("self.length : S", "-k.shape[2] :")),
            (RESULT, RESULT.replace(", :, :, :S", "")),
        ),
        mistake(
            "not_grown",
            "The memory does not grow. If it has no room for self.length + T positions, call self.reserve.",
            (LENGTH_CHECK, "if self.keys.shape[3] < S == k.shape[2]"),
        ),
        mistake(
            "grown_without_copy",
            "When the memory grows, the old positions are lost. self.reserve copies them.",
            (RESERVE, GROWN_WITHOUT_COPY),
        ),
        mistake(
            "cut_to_memory",
            "Positions for which there is no room are dropped. self.reserve makes room.",
            (RESERVE, "S = self.keys.shape[3]\nk, v = k[:, :, : S - self.length], v[:, :, : S - self.length]"),
        ),
    ],
    "KVCache.reserve": [
        mistake(
            "not_copied",
            "The stored keys and values are not copied to the new arrays.",
            (COPIED, "new[:] = 0"),
        ),
        mistake(
            "tiled",
            "Rows are repeated as 0, 1, 0, 1. They must be repeated as 0, 0, 1, 1, as by np.repeat.",
            (ALLOCATED, ALLOCATED.replace("B, repeats", "repeats, B")),
            (COPIED, COPIED.replace("old[:, :, None", "old[:, None, :")),
        ),
        mistake(
            "not_repeated",
            "The rows are not repeated: there must be B * repeats of them.",
            (ALLOCATED, ALLOCATED.replace("repeats", "1")),
            (RESHAPED, RESHAPED.replace(" * repeats", "")),
        ),
        mistake(
            "first_row_only",
            "All rows are copies of row 0.",
            (COPIED, COPIED.replace("old[:, :,", "old[:, :1,")),
        ),
        mistake(
            "only_first_copy",
            "Only the first of the repeated rows has the keys and values.",
            (COPIED, "new[:] = 0\nnew[:, :, 0, :, : self.length] = old[:, :, :, : self.length]"),
        ),
        mistake(
            "one_position_less",
            "The last stored position is not copied.",
            (COPIED, "new[:] = 0\nnew[..., : self.length - 1, :] = old[:, :, None, :, : max(0, self.length) - 1]"),
        ),
        mistake(
            "at_the_end",
            "The stored positions are copied to the end of the new memory. They must be at its beginning.",
            (COPIED, "new[:] = 0\nnew[..., n - self.length :, :] = old[:, :, None, :, : self.length]"),
        ),
        mistake(
            "last_positions",
            "The last positions of the old memory are copied. The stored ones are the first self.length.",
            (COPIED, COPIED.replace(", : self.length]", ", old.shape[3] - self.length :]")),
        ),
        mistake(
            "n_more",
            "The new memory has n positions more than before. It must have n in all.",
            ("in (", "in (n := n + self.keys.shape[3]) and ("),
        ),
        mistake(
            "n_is_added_to_length",
            "The new memory has self.length + n positions. It must have n.",
            ("L, B, H, _, D = self.keys.shape", "n += self.length\nL, B, H, _, D = self.keys.shape"),
        ),
        mistake(
            "n_positions",
            "The new memory has n_positions positions. It must have n.",
            ("L, B, H, _, D = self.keys.shape", "n = self.n_positions\nL, B, H, _, D = self.keys.shape"),
        ),
        mistake("only_keys", "self.values stays as it was.", ('("keys", "values")', '("keys",)')),
        mistake("only_values", "self.keys stays as it was.", ('("keys", "values")', '("values",)')),
        mistake(
            "keys_as_values",
            "self.values gets the keys.",
            ("getattr(self, name)", 'getattr(self, "keys")'),
        ),
        mistake(
            "exchanged",
            "self.keys and self.values are exchanged.",
            ("for name in", "self.keys, self.values = self.values, self.keys\nfor name in"),
        ),
        mistake(
            "dtype",
            "The new arrays are float64. They must have the dtype of the old ones.",
            (ALLOCATED, ALLOCATED.replace(", self.keys.dtype", "")),
        ),
        mistake(
            "length",
            "self.length is set to n. It must stay: no position is added.",
            (f"setattr(self, name, {RESHAPED})", f"setattr(self, name, {RESHAPED})\nself.length = n"),
        ),
        mistake(
            "emptied",
            "self.length is set to 0. It must stay: what is stored is kept.",
            (f"setattr(self, name, {RESHAPED})", f'setattr(self, name, {RESHAPED})\nself.length *= name == "keys"'),
        ),
        mistake(
            "heads_repeated",
            "The heads are repeated. The rows of the batch must be.",
            (ALLOCATED, "np.empty((L, B, H, repeats, n, D), self.keys.dtype)"),
            (COPIED, COPIED.replace("old[:, :, None, :,", "old[:, :, :, None,")),
            (RESHAPED, "new.reshape(L, B, H * repeats, n, D)"),
        ),
    ],
}
