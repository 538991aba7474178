"""Texts → vectors: one interface over OpenVINO and torch, and the token counts that the splitter goes by."""
